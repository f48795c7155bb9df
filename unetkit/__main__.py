"The command as `python -m unetkit`, for machines on which the script `unetkit` is not on the path."

import sys

from unetkit.cli import main

if __name__ == '__main__':
    sys.exit(main())
