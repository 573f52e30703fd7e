// Connects the drawing, the models and what the page shows.

import { Pad, SIDE } from "./drawing.js";
import { loadModels, loadOwnModel, startRuntime } from "./models.js";
import { normalizeDigit } from "./normalization.js";
import { transform } from "./transformation.js";
import { AnswerCard, LayerPanel, hasMaps } from "./view.js";

const byId = (id) => document.getElementById(id);
const UNITS = { right: " px", down: " px", angle: "°", scale: "%" };
const QUIET = 400; // milliseconds without a change before the answer is announced

const models = [];
const image = byId("image").getContext("2d");
const pad = new Pad(byId("pad"), byId("cursor"), byId("pen"), update);
let latest = null; // the event that is not answered yet
let isRunning = false;
let announcement;

/** Answers the newest event; those that come meanwhile are answered together. */
async function update(event) {
  latest = event;
  byId("hint").hidden = !pad.isEmpty;
  if (isRunning || !models.length) return;
  isRunning = true;
  byId("answers").ariaBusy = true;
  try {
    while (latest) {
      const { timeStamp } = latest;
      latest = null;
      await answer();
      measure(timeStamp);
      await new Promise(requestAnimationFrame);
    }
  } catch (error) {
    byId("summary").textContent = `The networks cannot answer. ${error.message}`;
  } finally {
    isRunning = false;
    byId("answers").ariaBusy = false;
  }
}

async function answer() {
  const pixels = readImage();
  showImage(pixels);
  const shown = models.filter((model) => !model.card.element.hidden);
  const answers = [];
  for (const model of shown) {
    answers.push(pad.isEmpty ? model.blank : await model.run(pixels));
  }
  const labels = shown.map((model, i) =>
    model.card.update(pad.isEmpty ? null : answers[i].probabilities),
  );
  shown.forEach((model, i) => {
    if (!model.panel.element.hidden) model.panel.update(answers[i].activations);
  });
  clearTimeout(announcement);
  announcement = setTimeout(() => announce(shown, labels), QUIET);
}

function readImage() {
  if (pad.isEmpty) return new Uint8Array(784);
  const { right, down, angle, scale } = sliderValues();
  const pixels = normalizeDigit(pad.opacity(), SIDE, SIDE);
  return transform(pixels, { right, down, angle, scale: scale / 100 });
}

function showImage(pixels) {
  const rgba = new ImageData(28, 28);
  pixels.forEach((x, i) => rgba.data.set([x, x, x, 255], 4 * i));
  image.putImageData(rgba, 0, 0);
}

function announce(shown, labels) {
  const different = [...new Set(labels)];
  const parts = different.map((label) => {
    const names = shown.map(({ title }) => title).filter((_, i) => labels[i] === label);
    return `${new Intl.ListFormat("en").format(names)}: ${label}`;
  });
  const isAgreed = different.length === 1;
  const text = isAgreed ? `All networks answer ${labels[0]}.` : `${parts.join(". ")}.`;
  byId("summary").textContent = pad.isEmpty ? "Draw a digit on the pad." : text;
}

function measure(start) {
  performance.clearMeasures("answer");
  const { duration } = performance.measure("answer", { start });
  const text = `answered in ${Math.round(duration)} ms`;
  byId("time").textContent = pad.isEmpty ? "" : text;
}

function sliderValues() {
  const names = Object.keys(UNITS);
  return Object.fromEntries(names.map((name) => [name, byId(name).valueAsNumber]));
}

function showSliders() {
  for (const [name, value] of Object.entries(sliderValues())) {
    byId(name).previousElementSibling.value = `${value}${UNITS[name]}`;
  }
}

/** Shows feature maps, or with the switch on, the units of the other models. */
function showPanels() {
  const isVanishing = byId("vanishing").checked;
  byId("maps-text").hidden = isVanishing;
  byId("units-text").hidden = !isVanishing;
  for (const model of models) {
    model.card.element.hidden = model.vanishes && !isVanishing;
    const isShown = model.layers.length && hasMaps(model) !== isVanishing;
    model.panel.element.hidden = !isShown;
  }
}

function add(model) {
  models.push({ ...model, card: new AnswerCard(model), panel: new LayerPanel(model) });
  byId("answers").append(models.at(-1).card.element);
  byId("layers").append(models.at(-1).panel.element);
  showPanels();
}

/** Removes the own model of an earlier choice that has the same title. */
function remove(title) {
  const i = models.findIndex((model) => model.isOwn && model.title === title);
  if (i < 0) return;
  models[i].card.element.remove();
  models[i].panel.element.remove();
  models.splice(i, 1);
}

async function addOwn(event) {
  byId("problem").textContent = "";
  try {
    const model = await loadOwnModel(event.target.files);
    remove(model.title);
    add(model);
    update(event);
  } catch (error) {
    byId("problem").textContent = `The model cannot be loaded. ${error.message}`;
  }
  event.target.value = ""; // The same files can be chosen again.
}

function listen(examples) {
  let next = 0;
  for (const name of ["undo", "clear", "example", "own"]) byId(name).disabled = false;
  byId("undo").addEventListener("click", (event) => pad.undo(event));
  byId("clear").addEventListener("click", (event) => pad.clear(event));
  byId("example").addEventListener("click", (event) => {
    pad.replace(structuredClone(examples[next]), event);
    next = (next + 1) % examples.length;
  });
  byId("sliders").addEventListener("input", (event) => {
    showSliders();
    update(event);
  });
  byId("sliders").addEventListener("reset", (event) => {
    setTimeout(() => {
      showSliders();
      update(event);
    });
  });
  byId("vanishing").addEventListener("change", (event) => {
    showPanels();
    update(event);
  });
  byId("own").addEventListener("change", addOwn);
}

async function start() {
  try {
    const examples = await (await fetch("examples.json")).json();
    await startRuntime();
    (await loadModels(tellProblem)).forEach(add);
    listen(examples);
    showSliders(); // They may have been moved while the networks were loading.
    await update(new Event("load"));
    document.body.dataset.ready = "";
  } catch (error) {
    byId("summary").textContent = `The page cannot start. ${error.message}`;
  }
}

function tellProblem(error) {
  byId("problem").textContent = error.message;
}

start();
