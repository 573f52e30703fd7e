// Converts a drawing to the form of MNIST: `zoo/data/normalization.py`, ported.
//
// The page knows its paper and its ink, so only the search for their colors is left
// out. A test compares both on the same strokes.

const SIDE = 28; // of the images of MNIST
const DIGIT_SIDE = 20; // of the box of a digit
const GRID = 64; // Images are analyzed on a grid of 64x64 points.

const WIDEST_STROKE = 11; // half of it, in points of the grid
const MNIST_INK = 0.87; // the mean of the ink in MNIST's strokes; 1 is white
const THIN = 0.06; // Strokes are thin if an erosion leaves less of their ink.
const LEAST_CONTRAST = 12; // gray levels; less is noise

/** Converts the opacity of black ink, (height, width) in [0, 255], to 28x28 pixels. */
export function normalizeDigit(opacity, height, width) {
  // The distance of the ink from white paper, in the three colors.
  const ink = matrix(height, width, (i) => Math.sqrt(3) * opacity[i]);
  const whole = { top: 0, bottom: height, left: 0, right: width };
  let view = whole;
  let seen, found;
  for (let pass = 0; pass < 3; pass++) {
    seen = view;
    found = findStrokes(ink, seen);
    // A square view does not widen the strokes of a narrow digit.
    const { top, bottom, left, right } = found.box;
    const [y, x] = [(top + bottom) / 2, (left + right) / 2];
    const reach = 0.7 * side(found.box) + 1;
    view = {
      top: Math.max(y - reach, 0),
      bottom: Math.min(y + reach, height),
      left: Math.max(x - reach, 0),
      right: Math.min(x + reach, width),
    };
  }
  const { box } = found;
  const step = side(box) / DIGIT_SIDE;
  const digit = drawDigit(ink, seen, found, step, 0, 0);

  const middle = SIDE / 2;
  const mass = Math.max(sum(digit), 1e-6);
  const meanRow = sum(map(digit, (x, i) => x * Math.floor(i / SIDE))) / mass;
  const meanColumn = sum(map(digit, (x, i) => x * (i % SIDE))) / mass;
  const mostDown = middle - (box.bottom - box.top) / step / 2;
  const mostRight = middle - (box.right - box.left) / step / 2;
  const down = clip(round(middle - meanRow), -mostDown, mostDown);
  const right = clip(round(middle - meanColumn), -mostRight, mostRight);
  const centered = drawDigit(ink, seen, found, step, down, right);
  return Uint8Array.from(centered.data, (x) => round(255 * x));
}

function drawDigit(ink, seen, { box, background, strokes, black }, step, down, right) {
  const top = (box.top + box.bottom) / 2 - (SIDE / 2 + down) * step;
  const left = (box.left + box.right) / 2 - (SIDE / 2 + right) * step;
  const frame = { top, bottom: top + SIDE * step, left, right: left + SIDE * step };
  const inner = zoom(seen, frame);
  const around = resample(background, inner, SIDE);
  const levels = map(resample(ink, frame, SIDE), (x, i) => x - around.data[i]);
  const near = map(resample(strokes, inner, SIDE), (x) => Math.min(2 * x, 1));
  const { high } = otsu(map(levels, (x, i) => x * near.data[i]));
  const contrast = Math.max((high - black) / MNIST_INK, LEAST_CONTRAST);
  const share = (x) => clip((x - black) / contrast, 0, 1);
  return thicken(map(levels, (x, i) => share(x) * near.data[i]));
}

/** Finds the box of the strokes in a part of an image, and what surrounds them. */
function findStrokes(ink, view) {
  const levels = resample(ink, view, GRID);
  // An opening removes what is narrower than its window, the strokes.
  const eroded = erode(filter(SMOOTH, levels), WIDEST_STROKE);
  const background = dilate(eroded, WIDEST_STROKE);
  const rest = map(levels, (x, i) => x - background.data[i]);
  const { threshold, low, high } = otsu(rest);
  const share = map(rest, (x) => clip((x - low) / Math.max(high - low, 1e-3), 0, 1));
  const mask = map(filter(SMOOTH, share), (x) => (x > 0.35 ? 1 : 0));
  // The strokes are the region with the most ink, and those across gaps of a few
  // points.
  const blurred = combine(BLUR, share);
  const likely = map(mask, (x, i) => x && CENTRAL.data[i] * sumAt(i, BLUR, blurred));
  const reach = dilate(mask, 3);
  const most = max(likely);
  const strokes = grow(map(likely, (x) => (x >= most ? 1 : 0)), reach);
  const paper = rest.data.filter((x) => x < threshold);
  const squares = paper.reduce((total, x) => total + (x - low) ** 2, 0);
  const deviation = Math.sqrt(squares / Math.max(paper.length, 1));
  const black = low + Math.min(2 * deviation, 0.3 * (high - low));
  const inked = map(mask, (x, i) => x * strokes.data[i]);
  return { box: bounds(inked, view), background, strokes, black };
}

/** Adds the points of `reach` that gaps of at most one point separate, again and again. */
function grow(seeds, reach) {
  const found = map(seeds, (x, i) => x * reach.data[i]);
  const open = ones(found);
  while (open.length) {
    const place = open.pop();
    const row = Math.floor(place / GRID);
    const column = place % GRID;
    for (let y = Math.max(row - 2, 0); y <= Math.min(row + 2, GRID - 1); y++) {
      for (let x = Math.max(column - 2, 0); x <= Math.min(column + 2, GRID - 1); x++) {
        const next = y * GRID + x;
        if (!reach.data[next] || found.data[next]) continue;
        found.data[next] = 1;
        open.push(next);
      }
    }
  }
  return found;
}

/** Widens strokes that are thinner than nearly all in MNIST. */
function thicken(digit) {
  const part = sum(erode(digit, 1)) / Math.max(sum(digit), 1e-6);
  const amount = 0.6 * Math.max(1 - part / THIN, 0);
  const across = transpose(dilateRows(transpose(digit), 1));
  const along = dilateRows(digit, 1);
  return map(digit, (x, i) =>
    Math.max(x, amount * Math.max(along.data[i], across.data[i])),
  );
}

/** Returns the threshold between two classes of values, and the mean of each. */
function otsu({ data }) {
  const values = data.slice().sort();
  let total = 0;
  for (const value of values) total += value;
  let most = -1;
  let best = [];
  for (let below = 1, partial = 0; below < values.length; below++) {
    partial += values[below - 1];
    const above = values.length - below;
    const low = partial / below;
    const high = (total - partial) / above;
    const between = below * above * (high - low) ** 2;
    if (between < most) continue;
    if (between > most) best = [];
    best.push({ threshold: values[below - 1], low, high });
    most = between;
  }
  const mean = (name) => best.reduce((a, b) => a + b[name], 0) / best.length;
  return { threshold: mean("threshold"), low: mean("low"), high: mean("high") };
}

/** Resizes a part of an image bilinearly to a square, with antialiasing. */
function resample(image, box, points) {
  const rows = weights(box.top, box.bottom, points, image.rows);
  const columns = weights(box.left, box.right, points, image.columns);
  return combine(rows, combine(columns, image));
}

function weights(start, stop, points, length) {
  const step = (stop - start) / points;
  const reach = Math.max(step, 1);
  return Array.from({ length: points }, (_, i) => {
    const place = start + (i + 0.5) * step - 0.5;
    const first = clip(Math.ceil(place - reach), 0, length);
    const end = clip(Math.floor(place + reach) + 1, first, length);
    return normalized(first, end, (k) => 1 - Math.abs(place - k) / reach);
  });
}

/** Returns the box of the ones in a mask that covers `view`, or else `view`. */
function bounds(mask, view) {
  const places = ones(mask);
  if (!places.length) return view;
  const rows = places.map((i) => Math.floor(i / GRID));
  const columns = places.map((i) => i % GRID);
  const height = (view.bottom - view.top) / GRID;
  const width = (view.right - view.left) / GRID;
  return {
    top: view.top + Math.min(...rows) * height,
    bottom: view.top + (Math.max(...rows) + 1) * height,
    left: view.left + Math.min(...columns) * width,
    right: view.left + (Math.max(...columns) + 1) * width,
  };
}

function ones({ data }) {
  const places = [];
  for (let i = 0; i < data.length; i++) if (data[i] > 0) places.push(i);
  return places;
}

/** Converts a box in pixels to the points of a grid that covers `view`. */
function zoom(view, box) {
  const y = GRID / (view.bottom - view.top);
  const x = GRID / (view.right - view.left);
  return {
    top: (box.top - view.top) * y,
    bottom: (box.bottom - view.top) * y,
    left: (box.left - view.left) * x,
    right: (box.right - view.left) * x,
  };
}

/** Returns the maximum of each square of `2 * radius + 1` points. */
function dilate(image, radius) {
  return transpose(dilateRows(transpose(dilateRows(image, radius)), radius));
}

function erode(image, radius) {
  return map(dilate(map(image, (x) => -x), radius), (x) => -x);
}

function dilateRows({ rows, columns, data }, radius) {
  const length = (rows + 2 * radius) * columns;
  const values = new Float64Array(length).fill(-Infinity);
  values.set(data, radius * columns);
  const wanted = 2 * radius + 1;
  for (let window = 1, shift; window < wanted; window += shift) {
    shift = Math.min(window, wanted - window);
    const offset = shift * columns;
    for (let i = 0; i < length - offset; i++) {
      if (values[i + offset] > values[i]) values[i] = values[i + offset];
    }
  }
  return { rows, columns, data: values.subarray(0, rows * columns) };
}

function side(box) {
  return Math.max(box.bottom - box.top, box.right - box.left);
}

function clip(x, low, high) {
  return Math.min(Math.max(x, low), high);
}

/** Rounds halves to the even number, as NumPy does. */
function round(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low & 1) : Math.round(x);
}

// Matrices hold their values row by row.

function matrix(rows, columns, value) {
  const data = new Float64Array(rows * columns);
  for (let i = 0; i < data.length; i++) data[i] = value(i);
  return { rows, columns, data };
}

function map({ rows, columns, data }, change) {
  return matrix(rows, columns, (i) => change(data[i], i));
}

function sum({ data }) {
  return data.reduce((total, x) => total + x, 0);
}

function max({ data }) {
  return data.reduce((most, x) => Math.max(most, x), -Infinity);
}

function transpose({ rows, columns, data }) {
  const turned = new Float64Array(data.length);
  for (let row = 0, i = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, i++) {
      turned[column * rows + row] = data[i];
    }
  }
  return { rows: columns, columns: rows, data: turned };
}

// Weights are windows, one per point: `values` for the places from `first` on.

function normalized(first, end, weight) {
  const values = new Float64Array(end - first);
  let total = 0;
  for (let k = 0; k < values.length; k++) total += values[k] = weight(first + k);
  for (let k = 0; k < values.length; k++) values[k] /= Math.max(total, 1e-6);
  return { first, values };
}

/** Returns the weighted sums of each row of an image, transposed. */
function combine(weights, { rows, columns, data }) {
  const sums = new Float64Array(weights.length * rows);
  for (let i = 0; i < weights.length; i++) {
    const { first, values } = weights[i];
    // Four rows at a time take half as long as one at a time.
    for (let row = 0; row < rows; row += 4) {
      const a = row;
      const b = Math.min(row + 1, rows - 1);
      const c = Math.min(row + 2, rows - 1);
      const d = Math.min(row + 3, rows - 1);
      let [sumA, sumB, sumC, sumD] = [0, 0, 0, 0];
      for (let k = 0; k < values.length; k++) {
        const value = values[k];
        const column = first + k;
        sumA += value * data[a * columns + column];
        sumB += value * data[b * columns + column];
        sumC += value * data[c * columns + column];
        sumD += value * data[d * columns + column];
      }
      sums[i * rows + a] = sumA;
      sums[i * rows + b] = sumB;
      sums[i * rows + c] = sumC;
      sums[i * rows + d] = sumD;
    }
  }
  return { rows: weights.length, columns: rows, data: sums };
}

/** Returns one value of `combine(weights, image).data`. */
function sumAt(place, weights, { rows, columns, data }) {
  const { first, values } = weights[Math.floor(place / rows)];
  const start = (place % rows) * columns + first;
  let sum = 0;
  for (let k = 0; k < values.length; k++) sum += values[k] * data[start + k];
  return sum;
}

function filter(weights, image) {
  return combine(weights, combine(weights, image));
}

function smoothing(sigma) {
  const reach = Math.ceil(6 * sigma); // Float32 does not resolve farther weights.
  return Array.from({ length: GRID }, (_, i) => {
    const [first, end] = [Math.max(i - reach, 0), Math.min(i + reach + 1, GRID)];
    return normalized(first, end, (k) => Math.exp(-0.5 * ((i - k) / sigma) ** 2));
  });
}

const SMOOTH = smoothing(0.7);
const BLUR = smoothing(GRID / 10);
const sine = (place) => Math.sin((Math.PI * (place + 0.5)) / GRID);
const CENTRAL = matrix(GRID, GRID, (i) => sine(Math.floor(i / GRID)) * sine(i % GRID));
