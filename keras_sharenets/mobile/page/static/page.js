// Runs a TFLite file on images in the browser. Images never leave the browser.
import { loadAndCompile, loadLiteRt, Tensor } from "./litert/index.js";
import { resize } from "./resize.js";

const at = (id) => document.getElementById(id);
const BARS = 5;
const RUNS = 10; // timed inferences of a still image; the median is shown
const MOST_PIXELS = 2 ** 24; // of a canvas on a phone

let networks = [];
const models = new Map(); // from an index of `networks` to the promise of its compiled model
let current = null; // {network, model}
let choice = 0; // counter of choices in the menu: a network that loads late does not replace a later choice
let source = null; // the last classified input: an ImageBitmap, or the video
let camera = null; // a MediaStream
let turn = 0; // request counter: results of older requests are not shown

function say(text, isError = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", isError);
}

const sides = (image) => [image.videoWidth || image.width, image.videoHeight || image.height];

// The color values of an image, resized for the network, in its input type.
function pixels(image, network) {
  const [width, height] = sides(image);
  const share = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
  const drawn = [width, height].map((side) => Math.max(1, Math.floor(share * side)));
  const context = new OffscreenCanvas(...drawn).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, ...drawn);
  const values = resize(context.getImageData(0, 0, ...drawn), network.shape);
  const { dtype, scale, zero_point: zeroPoint } = network.input;
  if (dtype !== "uint8") return Float32Array.from(values);
  if (!scale) return values;
  return new Uint8Array(Uint8ClampedArray.from(values, (value) => Math.round(value / scale) + zeroPoint).buffer);
}

async function infer({ network, model }, values) {
  const input = new Tensor(values, [1, ...network.shape]);
  const began = performance.now();
  const [output] = await model.run([input]);
  const raw = Array.from(await output.data());
  const milliseconds = performance.now() - began;
  input.delete();
  output.delete();
  const { dtype, scale, zero_point: zeroPoint } = network.output;
  const numbers = dtype === "uint8" && scale ? raw.map((value) => (value - zeroPoint) * scale) : raw;
  return { numbers, milliseconds };
}

// One entry per class, sorted by value: {label, value, share}; share is the length of the bar.
function rank(network, numbers) {
  const given = network.kind === "binary" ? [1 - numbers[0], numbers[0]] : numbers;
  const label = (index) => network.labels?.[index] ?? (network.kind === "value" ? "value" : `class ${index}`);
  const top = Math.max(...given);
  const total = given.reduce((sum, value) => sum + Math.exp(value - top), 0);
  const share = (value) => (network.probabilities ? value : Math.exp(value - top) / total);
  return given
    .map((value, index) => ({ label: label(index), value, share: network.kind === "value" ? 1 : share(value) }))
    .sort((one, other) => other.value - one.value);
}

function show(network, entries, milliseconds) {
  at("none").hidden = true;
  at("bars").replaceChildren(
    ...entries.slice(0, BARS).map(({ label, value, share }) => {
      const item = document.createElement("li");
      const line = Object.assign(document.createElement("div"), { className: "line" });
      const name = Object.assign(document.createElement("span"), { textContent: label });
      const text = network.probabilities ? `${(100 * value).toFixed(1)} %` : value.toPrecision(4);
      const number = Object.assign(document.createElement("span"), { className: "value", textContent: text });
      line.append(name, number);
      const bar = Object.assign(document.createElement("div"), { className: "bar" });
      const filled = document.createElement("div");
      filled.style.width = `${(100 * Math.min(1, Math.max(0, share))).toFixed(1)}%`;
      bar.append(filled);
      item.append(line, bar);
      return item;
    }),
  );
  fact("time", "One inference", `${milliseconds < 10 ? milliseconds.toFixed(2) : milliseconds.toFixed(0)} ms`);
}

function fact(key, term, text) {
  let box = at(`fact-${key}`);
  if (!box) {
    box = Object.assign(document.createElement("div"), { id: `fact-${key}` });
    box.append(document.createElement("dt"), document.createElement("dd"));
    at("facts").append(box);
  }
  box.firstChild.textContent = term;
  box.lastChild.textContent = text;
}

const bytes = (count) => (count < 1e6 ? `${(count / 1e3).toFixed(1)} kB` : `${(count / 1e6).toFixed(2)} MB`);

function showFacts(network) {
  at("facts").replaceChildren();
  fact("time", "One inference", "–");
  const { stored_kernel_bytes: stored, used_kernel_bytes: used } = network;
  fact("file", "File", bytes(network.bytes));
  fact("kernels", "Kernels stored", bytes(stored));
  fact("sharing", "Without sharing", stored ? `${bytes(used)}, ${(used / stored).toFixed(1)}×` : "–");
  fact("input", "Input", `${network.shape.join(" × ")}, ${network.input.dtype}`);
}

function preview(image) {
  const canvas = at("preview");
  const [width, height] = sides(image);
  Object.assign(canvas, { width, height });
  canvas.classList.toggle("small", width < 224);
  canvas.getContext("2d").drawImage(image, 0, 0);
  canvas.hidden = false;
  at("hint").hidden = true;
}

async function classify(image) {
  const mine = ++turn;
  source = image;
  preview(image);
  if (!current) return;
  const running = current;
  const { network } = running;
  const values = pixels(image, network);
  await infer(running, values); // Warm-up.
  const runs = [];
  let numbers;
  for (let run = 0; run < RUNS; run++) {
    if (mine !== turn || current !== running) return;
    const result = await infer(running, values);
    numbers = result.numbers;
    runs.push(result.milliseconds);
  }
  if (mine !== turn || current !== running) return;
  runs.sort((one, other) => one - other);
  const entries = rank(network, numbers);
  show(network, entries, runs[RUNS >> 1]);
  say("");
  at("output").dataset.answered = String(Number(at("output").dataset.answered ?? 0) + 1);
}

// Shows errors on the page.
const guarded = (work) => async (...given) => {
  try {
    await work(...given);
  } catch (error) {
    say(error.message ?? String(error), true);
  }
};

const open = guarded(async (blob) => {
  if (!blob) return;
  stopCamera();
  let image;
  try {
    // As in training, the values in the file, without conversion by its color profile.
    image = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${blob.name ?? "This file"} is not an image that the browser can read.`);
  }
  await classify(image);
});

function stopCamera() {
  camera?.getTracks().forEach((track) => track.stop());
  camera = null;
  at("camera").textContent = "Use the camera";
}

const startCamera = guarded(async () => {
  if (camera) return stopCamera();
  if (!current) throw new Error("No network is loaded yet.");
  if (!navigator.mediaDevices) throw new Error("The camera needs https or localhost.");
  camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  at("camera").textContent = "Stop the camera";
  const video = at("video");
  video.srcObject = camera;
  await video.play();
  say("");
  let recent = [];
  let running = current;
  while (camera) {
    const mine = ++turn;
    if (running !== current) [running, recent] = [current, []];
    source = video;
    preview(video);
    const { numbers, milliseconds } = await infer(running, pixels(video, running.network));
    recent.push(milliseconds);
    if (recent.length > RUNS) recent.shift();
    const middle = [...recent].sort((one, other) => one - other)[recent.length >> 1];
    if (mine === turn && running === current) show(running.network, rank(running.network, numbers), middle);
    await new Promise(requestAnimationFrame);
  }
});

const choose = guarded(async (index) => {
  const network = networks[index];
  const mine = ++choice;
  at("network").value = String(index);
  say(`Loading ${network.name} …`);
  // Models stay loaded: an inference of the former network may still be running.
  if (!models.has(index)) models.set(index, loadAndCompile(encodeURIComponent(network.file), { accelerator: "wasm" }));
  let model;
  try {
    model = await models.get(index);
  } catch (error) {
    models.delete(index);
    if (mine === choice && current) at("network").value = String(networks.indexOf(current.network));
    throw new Error(`${network.name} cannot be loaded: ${error.message ?? error}`);
  }
  if (mine !== choice) return;
  current = { network, model };
  showFacts(network);
  at("none").hidden = Boolean(source);
  say("Ready. Images do not leave this browser.");
  document.body.dataset.network = network.name;
  if (source && !camera) await classify(source);
});

const start = guarded(async () => {
  const content = await (await fetch("networks.json")).json();
  networks = content.networks;
  at("network").append(...networks.map(({ name }, index) => new Option(name, String(index))));
  at("network").parentElement.hidden = networks.length < 2;
  if (networks.length === 1) document.querySelector("h1").textContent = networks[0].name;
  for (const file of content.examples) {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(Object.assign(new Image(), { src: file, alt: "example" }));
    button.addEventListener("click", guarded(async () => open(await (await fetch(file)).blob())));
    at("examples").append(button);
  }
  await loadLiteRt(new URL("litert/wasm/", document.baseURI).href);
  await choose(0);
});

at("network").addEventListener("change", (event) => choose(Number(event.target.value)));
at("camera").addEventListener("click", startCamera);
at("drop").addEventListener("click", () => at("file").click());
at("drop").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    at("file").click();
  }
});
at("file").addEventListener("change", (event) => {
  const [chosen] = event.target.files;
  event.target.value = ""; // The same file can be chosen again.
  open(chosen);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind !== "drop") return;
    const [dropped] = event.dataTransfer.files;
    if (dropped) open(dropped);
    else say("Drop an image file: this was a text or a link.", true);
  });
}
start();
