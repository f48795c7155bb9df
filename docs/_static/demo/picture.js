// From a file or an address to pixels, or to an error that says what to do.

const LONGEST = 1024, SHORTEST = 32; // pixels
const MOST_BYTES = 64e6, PATIENCE = 20; // seconds

function pixels(bitmap) {
  const [width, height] = [bitmap.width, bitmap.height].map(side => Math.min(side, LONGEST));
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext('2d', {alpha: false, willReadFrequently: true});
  context.drawImage(bitmap, -Math.floor((bitmap.width - width) / 2), -Math.floor((bitmap.height - height) / 2));
  bitmap.close();
  return {data: context.getImageData(0, 0, width, height).data, height, width};
}

// The bytes as they are stored: a colour profile would change what the network sees.
const decode = blob => createImageBitmap(blob, {colorSpaceConversion: 'none', premultiplyAlpha: 'none'});

export async function readUrl(url) {
  const reply = await fetch(url);
  if (!reply.ok) throw new Error(`${url} cannot be loaded (${reply.status}): reload the page.`);
  return pixels(await decode(await reply.blob()));
}

const givesUp = seconds => new Promise((_, reject) => setTimeout(() => reject(new Error('too slow')), 1000 * seconds));

export async function readFile(file) {
  const size = `${(file.size / 1e6).toFixed(0)} MB`;
  if (file.size > MOST_BYTES) throw new Error(`${file.name} has ${size}: choose an image of at most ${MOST_BYTES / 1e6} MB.`);
  const bitmap = await Promise.race([decode(file), givesUp(PATIENCE)]).catch(() => {
    throw new Error(`${file.name} is no image that this browser can read: choose a PNG, JPEG or WebP file.`);
  });
  const {width, height} = bitmap;
  if (Math.min(width, height) < SHORTEST)
    throw new Error(`${file.name} has ${width} × ${height} pixels: choose an image with at least ${SHORTEST} on each side.`);
  const fits = Math.max(width, height) <= LONGEST;
  return {...pixels(bitmap), note: fits ? '' : ` Of ${width} × ${height} pixels the middle is mapped: at most ${LONGEST} on a side fit.`};
}
