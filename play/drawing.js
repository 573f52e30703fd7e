// The pad: strokes drawn with a mouse, a finger, a pen, or the keyboard.

export const SIDE = 280; // of the pad's pixels, however large it is shown
const PEN = 21;
const STEP = 10; // of the arrow keys
const MOVES = {
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
};

export class Pad {
  /** `changed(event)` is called after each change of the drawing. */
  constructor(canvas, cursor, status, changed) {
    this.canvas = canvas;
    this.cursor = cursor;
    this.status = status;
    this.changed = changed;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.strokes = [];
    this.pointer = -1;
    this.place = [SIDE / 2, SIDE / 2];
    this.isPenDown = false;
    canvas.addEventListener("pointerdown", (event) => this.#press(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => this.#lift());
    this.#showCursor();
  }

  get isEmpty() {
    return !this.strokes.length;
  }

  /** Returns the opacity of the ink, row by row, in [0, 255]. */
  opacity() {
    const { data } = this.context.getImageData(0, 0, SIDE, SIDE);
    const opacity = new Uint8Array(SIDE * SIDE);
    for (let i = 0; i < opacity.length; i++) opacity[i] = data[4 * i + 3];
    return opacity;
  }

  replace(strokes, event) {
    this.strokes = strokes;
    // A stroke that is being drawn ends.
    if (this.#isPressed()) this.canvas.releasePointerCapture(this.pointer);
    this.#lift();
    this.#draw(event);
  }

  undo(event) {
    this.replace(this.strokes.slice(0, -1), event);
  }

  clear(event) {
    this.replace([], event);
  }

  #isPressed() {
    return this.canvas.hasPointerCapture(this.pointer);
  }

  #press(event) {
    // A second finger does not draw.
    if (event.button !== 0 || this.#isPressed()) return;
    this.pointer = event.pointerId;
    this.canvas.setPointerCapture(this.pointer);
    this.#lift();
    this.strokes.push([this.#placeOf(event)]);
    this.#draw(event);
  }

  #move(event) {
    if (event.pointerId !== this.pointer || !this.#isPressed()) return;
    const events = event.getCoalescedEvents?.() ?? [];
    const points = (events.length ? events : [event]).map((e) => this.#placeOf(e));
    this.strokes.at(-1).push(...points);
    this.#draw(event);
  }

  #placeOf(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * SIDE;
    const y = ((event.clientY - box.top) / box.height) * SIDE;
    return [x, y];
  }

  #key(event) {
    const isUndo = event.key === "z" && (event.ctrlKey || event.metaKey);
    if (event.key in MOVES && !event.altKey) this.#step(event);
    else if (event.key === " ") event.repeat || this.#isPressed() || this.#toggle(event);
    else if (event.key === "Backspace" || isUndo) this.undo(event);
    else if (event.key === "Delete") this.clear(event);
    else return;
    event.preventDefault();
  }

  #step(event) {
    const inside = (x) => Math.min(Math.max(x, 0), SIDE);
    const move = MOVES[event.key];
    this.place = this.place.map((x, axis) => inside(x + STEP * move[axis]));
    this.#showCursor();
    if (this.isPenDown) {
      this.strokes.at(-1).push(this.place);
      this.#draw(event);
    }
  }

  #toggle(event) {
    this.isPenDown = !this.isPenDown;
    this.status.textContent = this.isPenDown ? "Pen down" : "Pen up";
    this.#showCursor();
    if (this.isPenDown) {
      this.strokes.push([this.place]);
      this.#draw(event);
    }
  }

  #lift() {
    if (this.isPenDown) this.status.textContent = "Pen up";
    this.isPenDown = false;
    this.#showCursor();
  }

  #showCursor() {
    const [x, y] = this.place.map((place) => `${(100 * place) / SIDE}%`);
    this.cursor.style.left = x;
    this.cursor.style.top = y;
    this.cursor.classList.toggle("down", this.isPenDown);
  }

  #draw(event) {
    const { context } = this;
    context.clearRect(0, 0, SIDE, SIDE);
    context.lineWidth = PEN;
    context.lineCap = context.lineJoin = "round";
    for (const points of this.strokes) {
      context.beginPath();
      context.moveTo(...points[0]);
      // Curves through the middles of the lines have no corners.
      for (let i = 1; i < points.length - 1; i++) {
        const middle = points[i].map((x, axis) => (x + points[i + 1][axis]) / 2);
        context.quadraticCurveTo(...points[i], ...middle);
      }
      context.lineTo(...points.at(-1));
      context.stroke();
    }
    this.changed(event);
  }
}
