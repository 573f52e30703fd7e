// Shifts, rotates and scales 28x28 images about their center, bilinearly.

const SIDE = 28;

/**
 * Returns the transformed pixels.
 *
 * `right` and `down` are in pixels, `angle` in degrees clockwise, `scale` is a factor.
 */
export function transform(pixels, { right, down, angle, scale }) {
  const cosine = Math.cos((angle * Math.PI) / 180) / scale;
  const sine = Math.sin((angle * Math.PI) / 180) / scale;
  const middle = (SIDE - 1) / 2;
  return Uint8Array.from(pixels, (_, i) => {
    const x = (i % SIDE) - middle - right;
    const y = Math.floor(i / SIDE) - middle - down;
    const column = middle + cosine * x + sine * y;
    const row = middle - sine * x + cosine * y;
    return Math.round(interpolate(pixels, row, column));
  });
}

function interpolate(pixels, row, column) {
  const top = Math.floor(row);
  const left = Math.floor(column);
  let value = 0;
  for (const y of [top, top + 1]) {
    for (const x of [left, left + 1]) {
      const isInside = y >= 0 && y < SIDE && x >= 0 && x < SIDE;
      const near = (1 - Math.abs(row - y)) * (1 - Math.abs(column - x));
      if (isInside) value += near * pixels[y * SIDE + x];
    }
  }
  return value;
}
