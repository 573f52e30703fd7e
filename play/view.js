// What the page shows of a model: its answer, and the outputs of its layers.

// Colors of values from -1 to 1, as in the scale of style.css.
const COLORS = [
  [-1, [239, 138, 75]],
  [0, [19, 20, 29]],
  [0.5, [84, 104, 224]],
  [1, [245, 241, 230]],
];
const PALETTE = new Uint32Array(511).map((_, i) => colorOf((i - 255) / 255));
const LEAST_CHANGE = 1e-6; // the left end of the bars; less is rounding of float32

/** Shows the probabilities of the classes. */
export class AnswerCard {
  constructor({ title, labels }) {
    this.labels = labels;
    this.element = create("article", { className: "card answer" });
    this.best = create("p", { className: "best" });
    const bars = create("ol", { className: "bars" });
    this.rows = labels.map((label) => {
      const row = create("li");
      const bar = create("span", { className: "bar" });
      row.append(create("span", { textContent: label }), bar, create("span"));
      return row;
    });
    bars.append(...this.rows);
    const heading = create("h3", { textContent: title });
    this.element.append(heading, this.best, bars);
  }

  /** Shows probabilities, or none for `null`. */
  update(probabilities) {
    const top = probabilities ? indexOfLargest(probabilities) : -1;
    const label = this.labels[top] ?? "–";
    const sure = create("span", { textContent: percent(probabilities?.[top]) });
    this.best.classList.toggle("long", label.length > 2);
    this.best.replaceChildren(create("strong", { textContent: label }), sure);
    this.rows.forEach((row, i) => {
      row.classList.toggle("top", i === top);
      row.children[1].style.setProperty("--part", probabilities?.[i] ?? 0);
      row.children[2].textContent = percent(probabilities?.[i]);
    });
    return label;
  }
}

/** Shows the outputs of the layers of a model. */
export class LayerPanel {
  constructor(model) {
    const { title, layers } = model;
    // Without feature maps, the panel shows how much the layers depend on the image.
    this.blank = hasMaps(model) ? null : model.blank.activations;
    this.element = create("article", { className: "card panel" });
    this.element.append(create("h3", { textContent: title }));
    this.figures = layers.map((layer) => new LayerFigure(title, layer));
    this.element.append(...this.figures.map((figure) => figure.element));
  }

  update(activations) {
    this.figures.forEach((figure, i) => {
      figure.paint(activations[i]);
      if (this.blank) figure.showChange(activations[i], this.blank[i]);
    });
  }
}

/** Returns `true` if a model has feature maps, and not only units. */
export function hasMaps({ layers }) {
  return layers.some(({ shape }) => shape.length === 3);
}

class LayerFigure {
  constructor(title, { name, shape }) {
    // Units are maps of one pixel.
    const [height, width, maps] = shape.length === 3 ? shape : [1, 1, shape.at(-1)];
    this.size = { height, width, maps };
    // A gap of a pixel between maps, and none between units.
    this.gap = height * width > 1 ? 1 : 0;
    this.columns = this.gap ? mapsPerRow(maps) : Math.min(maps, 32);
    const rows = Math.ceil(maps / this.columns);
    this.canvas = create("canvas", {
      width: this.columns * (width + this.gap) - this.gap,
      height: rows * (height + this.gap) - this.gap,
      role: "img",
    });
    const kind = this.gap ? `${maps} maps of ${height} by ${width}` : `${maps} units`;
    this.canvas.setAttribute("aria-label", `Layer ${name} of ${title}: ${kind}`);
    this.context = this.canvas.getContext("2d");
    const caption = create("figcaption");
    const text = this.gap ? `${maps} maps, ${height} × ${width}` : `${maps} units`;
    caption.append(
      create("code", { textContent: name }),
      create("span", { textContent: text }),
    );
    this.element = create("figure");
    this.change = create("div", { className: "change", hidden: true });
    this.change.append(create("span", { className: "bar" }), create("span"));
    this.element.append(caption, this.canvas, this.change);
  }

  showChange(values, blank) {
    const [bar, text] = this.change.children;
    const change = norm(values.map((x, i) => x - blank[i])) / (norm(values) || 1);
    const part = 1 - Math.log(change) / Math.log(LEAST_CHANGE);
    bar.style.setProperty("--part", Math.min(Math.max(part, 0), 1));
    const shown = Math.max(change, LEAST_CHANGE);
    const sign = change < LEAST_CHANGE ? "< " : "";
    text.textContent = `${sign}${Number((100 * shown).toPrecision(2))}%`;
    this.change.hidden = false;
  }

  paint(values) {
    const { height, width, maps } = this.size;
    const image = this.context.createImageData(this.canvas.width, this.canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    let largest = 1e-9;
    for (const value of values) largest = Math.max(largest, Math.abs(value));
    const scale = 255 / largest;
    const rowWidth = this.canvas.width;
    for (let map = 0; map < maps; map++) {
      const left = (map % this.columns) * (width + this.gap);
      const top = Math.floor(map / this.columns) * (height + this.gap);
      for (let y = 0, from = map; y < height; y++) {
        const start = (top + y) * rowWidth + left;
        for (let place = start; place < start + width; place++, from += maps) {
          pixels[place] = PALETTE[Math.round(255 + values[from] * scale)];
        }
      }
    }
    this.context.putImageData(image, 0, 0);
  }
}

function mapsPerRow(maps) {
  return maps <= 8 ? maps : maps <= 32 ? 8 : 16;
}

/** Returns the color of a value as the four bytes of a pixel. */
function colorOf(value) {
  const next = COLORS.findIndex(([place]) => place >= value);
  const [end, to] = COLORS[Math.max(next, 1)];
  const [start, from] = COLORS[Math.max(next, 1) - 1];
  const part = (value - start) / (end - start);
  const color = from.map((x, i) => Math.round(x + part * (to[i] - x)));
  return new Uint32Array(Uint8Array.of(...color, 255).buffer)[0];
}

function percent(probability) {
  return probability === undefined ? "" : `${Math.round(100 * probability)}%`;
}

function norm(values) {
  return Math.sqrt(values.reduce((total, x) => total + x * x, 0));
}

function indexOfLargest(values) {
  return values.reduce((best, x, i) => (x > values[best] ? i : best), 0);
}

function create(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}
