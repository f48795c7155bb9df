"Build and install unetkit. Everything that can change is in settings.ini, which nbdev reads too."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
STATUS = {
    '1': '1 - Planning',
    '2': '2 - Pre-Alpha',
    '3': '3 - Alpha',
    '4': '4 - Beta',
    '5': '5 - Production/Stable',
    '6': '6 - Mature',
    '7': '7 - Inactive',
}
LICENCES = {'apache2': 'Apache-2.0'}
PYTHONS = ['3.10', '3.11', '3.12', '3.13']

parser = ConfigParser(delimiters=['='])
parser.read(HERE / 'settings.ini', encoding='utf-8')
settings = parser['DEFAULT']

# An extra is every key that ends in _requirements: dev_requirements is what `pip install unetkit[dev]` adds.
extras = {
    key.removesuffix('_requirements'): value.split()
    for key, value in settings.items()
    if key.endswith('_requirements')
}



def readme():
    "README.md with links that lead somewhere from outside the repository as well."
    text = (HERE / 'README.md').read_text(encoding='utf-8')
    text = re.sub(r'\]\((nbs/[^)]*\.(?:png|svg))\)', rf"]({settings['git_url']}/raw/{settings['branch']}/\1)", text)
    return re.sub(r'\]\((nbs/[^)]*)\)', rf"]({settings['git_url']}/blob/{settings['branch']}/\1)", text)


setup(
    name=settings['lib_name'],
    version=settings['version'],
    description=settings['description'],
    long_description=readme(),
    long_description_content_type='text/markdown',
    author=settings['author'],
    author_email=settings['author_email'],
    url=settings['git_url'],
    keywords=settings['keywords'],
    license=LICENCES[settings['license']],
    license_files=['LICENSE'],
    classifiers=[
        f"Development Status :: {STATUS[settings['status']]}",
        f"Intended Audience :: {settings['audience']}",
        'Intended Audience :: Education',
        'Intended Audience :: Science/Research',
        f"Natural Language :: {settings['language']}",
        'Programming Language :: Python :: 3',
        *[f'Programming Language :: Python :: {python}' for python in PYTHONS],
        'Topic :: Scientific/Engineering :: GIS',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
    packages=find_packages(include=[settings['lib_path'], f"{settings['lib_path']}.*"]),
    package_data={settings['lib_path']: ['py.typed', 'recorded/*/*', 'locales/*.json']},
    python_requires=f">={settings['min_python']}",
    install_requires=settings['requirements'].split(),
    extras_require=extras,
    entry_points={
        'console_scripts': settings['console_scripts'].split(),
        'nbdev': [f"{settings['lib_name']}={settings['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
