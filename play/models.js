// The models of the page: files of `zoo.export(..., format="onnx")`.

let ort; // It is imported late, so that the page can tell if it is missing.

/** Starts ONNX Runtime on one thread, for which a server needs no special headers. */
export async function startRuntime() {
  ort = await import("./runtime/ort.mjs");
  const { body } = await load("runtime/ort.wasm.gzip");
  const binary = body.pipeThrough(new DecompressionStream("gzip"));
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await new Response(binary).arrayBuffer();
}

/** Loads the models that `models/index.json` lists; `failed(error)` tells of others. */
export async function loadModels(failed) {
  const listed = await (await load("models/index.json")).json();
  const files = listed.map(({ folder }) =>
    Promise.all([
      load(`${folder}/model.onnx`).then((response) => response.arrayBuffer()),
      load(`${folder}/export.json`).then((response) => response.json()),
    ]),
  );
  // A failure is reported when the model's turn comes.
  for (const file of files) file.catch(() => {});
  const models = [];
  // The runtime takes one call at a time.
  for (const [i, { title, vanishes }] of listed.entries()) {
    try {
      const model = await openModel(title, ...(await files[i]));
      models.push({ ...model, vanishes });
    } catch (error) {
      failed(error);
    }
  }
  if (!models.length) throw new Error("No network can be loaded.");
  return models;
}

/** Loads a model from the files `model.onnx` and `export.json` that a user chose. */
export async function loadOwnModel(files) {
  const choice = Object.fromEntries([...files].map((file) => [file.name, file]));
  if (!choice["model.onnx"] || !choice["export.json"]) {
    const names = [...files].map((file) => file.name).join(", ");
    throw new Error(`Choose the files model.onnx and export.json. Received: ${names}.`);
  }
  const contract = JSON.parse(await choice["export.json"].text());
  const file = await choice["model.onnx"].arrayBuffer();
  const model = await openModel(contract?.model, file, contract);
  return { ...model, isOwn: true };
}

async function openModel(title, file, contract) {
  if (!contract?.signatures?.serving_default || !contract.labels) {
    throw new Error("export.json was not written by zoo.export.");
  }
  const { inputs, outputs } = contract.signatures.serving_default;
  const [, ...shape] = inputs.image.shape;
  if (shape.reduce((a, b) => a * b, 1) !== 784) {
    throw new Error(`${title} must take images of 28x28 pixels. Received: ${shape}.`);
  }
  const session = await ort.InferenceSession.create(new Uint8Array(file));
  const layers = (contract.features ?? []).map((name) => ({
    name,
    shape: outputs[name].shape.slice(1),
  }));
  const names = ["probabilities", ...layers.map((layer) => layer.name)];

  /** Returns the probabilities, and the outputs of the layers in their order. */
  async function run(pixels) {
    const image = new ort.Tensor(Float32Array.from(pixels), [1, ...shape]);
    const answer = await session.run({ image }, names);
    const [probabilities, ...activations] = names.map((name) => answer[name].data);
    return { probabilities, activations };
  }

  const blank = await run(new Uint8Array(784));
  if (blank.probabilities.length !== contract.labels.length) {
    const sizes = `${contract.labels.length} and ${blank.probabilities.length}`;
    throw new Error(`${title} must have a label per class. Received: ${sizes}.`);
  }
  return { title, labels: contract.labels, layers, blank, run, vanishes: false };
}

async function load(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path} cannot be loaded.`);
  return response;
}
