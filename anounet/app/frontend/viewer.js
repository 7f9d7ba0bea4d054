// One picture to look into: original | normalised under a divider that is dragged, the heat map over the
// original with its opacity, outlines at any threshold, and the map's value under the pointer.
// The server is asked for nothing: all of it is a view of what `data` holds.

const kept = new WeakMap();

export default function ({ data, parentElement }) {
  let viewer = kept.get(parentElement);
  if (!viewer) kept.set(parentElement, (viewer = new Viewer(parentElement)));
  viewer.show(data);
  return () => {
    viewer.leave();
    kept.delete(parentElement);
  };
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function picture(source) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = source;
  });
}

class Viewer {
  constructor(root) {
    this.split = 0.5;
    this.chosen = 0;
    this.canvas = element("canvas", { role: "img" });
    this.grip = element("div", { class: "grip", role: "slider", tabindex: "0" }, element("span"));
    this.tags = [element("span", { class: "tag left" }), element("span", { class: "tag right" })];
    this.stage = element("div", { class: "stage" }, this.canvas, ...this.tags, this.grip);
    this.readout = element("output", { class: "readout" });
    this.methods = element("div", { class: "methods", role: "radiogroup" });
    this.opacity = element("input", { type: "range", min: "0", max: "100", step: "1" });
    this.threshold = element("input", { type: "range", min: "0.1", step: "0.05" });
    this.opacityLabel = element("label", {}, element("span"), this.opacity, element("b"));
    this.thresholdLabel = element("label", {}, element("span"), this.threshold, element("b"));
    this.figure = element(
      "figure",
      {},
      this.methods,
      this.stage,
      this.readout,
      element("div", { class: "controls" }, this.opacityLabel, this.thresholdLabel),
    );
    root.append(this.figure);
    this.listen();
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.stage);
  }

  leave() {
    this.watch.disconnect();
    this.figure.remove();
  }

  listen() {
    const to = (event) => {
      const box = this.stage.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    this.stage.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      this.stage.setPointerCapture(event.pointerId);
      this.dragging = true;
      this.place(to(event)[0]);
      this.grip.focus({ preventScroll: true });
      event.preventDefault();
    });
    this.stage.addEventListener("pointermove", (event) => {
      const [x, y] = to(event);
      if (this.dragging) this.place(x);
      this.read(x, y);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      this.stage.addEventListener(end, () => (this.dragging = false));
    }
    this.stage.addEventListener("pointerleave", () => this.read());
    this.grip.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -0.02, ArrowDown: -0.02, ArrowRight: 0.02, ArrowUp: 0.02 };
      const far = { PageDown: -0.2, PageUp: 0.2, Home: -1, End: 1 };
      const step = steps[event.key] ?? far[event.key];
      if (step === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      this.place(this.split + step);
    });
    this.opacity.addEventListener("input", () => this.adjusted());
    this.threshold.addEventListener("input", () => this.adjusted());
  }

  async show(data) {
    const key = JSON.stringify([data.key, data.opacity, data.threshold, data.factor, data.colours]);
    this.data = data;
    this.texts();
    if (key === this.key) return;
    this.key = key;
    this.lut = bytes(data.colours);
    this.opacity.value = data.opacity;
    this.threshold.value = data.threshold;
    const sources = [data.original, ...data.methods.map((method) => method.image)];
    const images = await Promise.all(sources.map((source) => (source ? picture(source) : null)));
    if (this.key !== key) return; // another picture came meanwhile
    [this.original, ...this.redrawn] = images;
    this.maps = data.methods.map((method) => {
      const raw = bytes(method.map);
      const levels = new Uint16Array(raw.buffer, raw.byteOffset, raw.length / 2);
      return Float32Array.from(levels, (level) => (level / 65535) * method.top);
    });
    this.choose(this.chosen);
  }

  texts() {
    const { words, methods } = this.data;
    this.grip.setAttribute("aria-label", words.divider);
    this.grip.setAttribute("aria-valuemin", "0");
    this.grip.setAttribute("aria-valuemax", "100");
    this.tags[0].textContent = words.original;
    this.opacityLabel.firstChild.textContent = words.opacity;
    this.thresholdLabel.firstChild.textContent = words.threshold;
    this.methods.setAttribute("aria-label", words.methods);
    this.methods.hidden = methods.length < 2;
    while (this.methods.children.length > methods.length) this.methods.lastChild.remove();
    while (this.methods.children.length < methods.length) this.methods.append(this.radio());
    methods.forEach((method, at) => (this.methods.children[at].textContent = method.name));
    this.mark();
  }

  radio() {
    const at = this.methods.children.length;
    const button = element("button", { type: "button", role: "radio" });
    button.addEventListener("click", () => this.choose(at));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const count = this.methods.children.length;
      const next = (at + step + count) % count;
      this.choose(next);
      this.methods.children[next].focus();
    });
    return button;
  }

  mark() {
    [...this.methods.children].forEach((button, at) => {
      button.setAttribute("aria-checked", String(at === this.chosen));
      button.tabIndex = at === this.chosen ? 0 : -1;
    });
    const method = this.data.methods[this.chosen];
    if (!method) return;
    this.tags[1].textContent = method.made;
    this.canvas.setAttribute("aria-label", method.alt);
  }

  choose(at) {
    this.chosen = Math.min(at, this.data.methods.length - 1);
    this.mark();
    if (!this.maps) return;
    this.threshold.max = Math.max(2, Math.ceil(this.data.methods[this.chosen].top * 20) / 20);
    this.adjusted();
    this.place(this.split);
    this.read();
  }

  adjusted() {
    this.opacityLabel.lastChild.textContent = `${this.opacity.value} %`;
    const level = Number(this.threshold.value);
    const said = this.data.words.level.replace("{v}", this.figureOf(level));
    this.thresholdLabel.lastChild.textContent = said;
    this.threshold.setAttribute("aria-valuetext", said);
    this.heat = null;
    this.draw();
  }

  place(x) {
    this.split = Math.min(1, Math.max(0, x));
    const share = Math.round(100 * this.split);
    this.grip.style.left = `${100 * this.split}%`;
    this.grip.setAttribute("aria-valuenow", share);
    this.grip.setAttribute("aria-valuetext", this.data.words.share.replace("{n}", share));
    this.tags[0].style.opacity = this.split > 0.2 ? 1 : 0;
    this.tags[1].style.opacity = this.split < 0.8 ? 1 : 0;
    this.draw();
  }

  read(x, y) {
    const side = this.data.side;
    if (!this.maps || x === undefined || x < 0 || y < 0 || x >= 1 || y >= 1) {
      this.readout.textContent = this.data.words.hint;
      return;
    }
    const [column, row] = [Math.floor(x * side), Math.floor(y * side)];
    const value = this.maps[this.chosen][row * side + column];
    this.readout.textContent = this.data.words.value
      .replace("{x}", column)
      .replace("{y}", row)
      .replace("{v}", this.figureOf(value));
  }

  figureOf(value) {
    const shown = value * this.data.factor;
    return shown.toFixed(shown < 10 ? 2 : 1);
  }

  // The map in the colours of the fixed scale, more opaque where it is hotter, as `anomaly_map.overlay` does.
  coloured() {
    const side = this.data.side;
    const { top } = this.data;
    const layer = new OffscreenCanvas(side, side);
    const context = layer.getContext("2d");
    const pixels = context.createImageData(side, side);
    const opacity = Number(this.opacity.value) / 100;
    this.maps[this.chosen].forEach((value, at) => {
      const level = Math.min(1, Math.max(0, value / top));
      const colour = 3 * Math.round(255 * level);
      pixels.data[4 * at] = this.lut[colour];
      pixels.data[4 * at + 1] = this.lut[colour + 1];
      pixels.data[4 * at + 2] = this.lut[colour + 2];
      pixels.data[4 * at + 3] = 255 * opacity * Math.sqrt(level);
    });
    context.putImageData(pixels, 0, 0);
    return layer;
  }

  draw() {
    if (!this.maps) return;
    const box = this.stage.getBoundingClientRect();
    const side = Math.round(Math.min(1200, box.width * (window.devicePixelRatio || 1)));
    if (!side) return;
    if (this.canvas.width !== side) this.canvas.width = this.canvas.height = side;
    const context = this.canvas.getContext("2d");
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.clearRect(0, 0, side, side);
    const made = this.redrawn[this.chosen];
    if (made) context.drawImage(made, 0, 0, side, side);
    const end = made ? Math.round(this.split * side) : side;
    context.save();
    context.beginPath();
    context.rect(0, 0, end, side);
    context.clip();
    context.drawImage(this.original, 0, 0, side, side);
    this.heat ??= this.coloured();
    context.drawImage(this.heat, 0, 0, side, side);
    context.restore();
    this.outline(context, side);
  }

  // Marching squares (Lorensen and Cline 1987, in the plane): a line where the map crosses the threshold.
  outline(context, size) {
    const { side } = this.data;
    const map = this.maps[this.chosen];
    const level = Number(this.threshold.value);
    const unit = size / side;
    // Beyond the border lies nothing, so that regions at the border are closed.
    const at = (x, y) => (x < 0 || y < 0 || x >= side || y >= side ? 0 : map[y * side + x]);
    const path = new Path2D();
    for (let y = -1; y < side; y++) {
      for (let x = -1; x < side; x++) {
        const corners = [at(x, y), at(x + 1, y), at(x + 1, y + 1), at(x, y + 1)];
        const above = corners.map((value) => value > level);
        const count = above.filter(Boolean).length;
        if (count === 0 || count === 4) continue;
        const places = [[x, y], [x + 1, y], [x + 1, y + 1], [x, y + 1]];
        const crossings = [];
        for (let edge = 0; edge < 4; edge++) {
          const next = (edge + 1) % 4;
          if (above[edge] === above[next]) continue;
          const part = (level - corners[edge]) / (corners[next] - corners[edge]);
          const [from, to] = [places[edge], places[next]];
          crossings.push(from.map((value, axis) => unit * (value + part * (to[axis] - value) + 0.5)));
        }
        for (let pair = 0; pair + 1 < crossings.length; pair += 2) {
          path.moveTo(...crossings[pair]);
          path.lineTo(...crossings[pair + 1]);
        }
      }
    }
    const width = Math.max(1.5, size / 300);
    for (const [colour, wide] of [["rgba(0, 0, 0, 0.75)", 2.2 * width], ["#ffffff", width]]) {
      context.strokeStyle = colour;
      context.lineWidth = wide;
      context.stroke(path);
    }
  }
}
