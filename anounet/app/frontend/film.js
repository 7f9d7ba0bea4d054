// Plays the film of an optimisation: image, heat map, losses and the path in feature space, step by step.
// Python has worked everything out; here it is only drawn. Places lie in the unit square, y upwards.

const SVG = "http://www.w3.org/2000/svg"
const FRAME = 420 // milliseconds that a frame is shown
const players = new WeakMap() // parentElement → Player

export default function ({ data, parentElement }) {
  let player = players.get(parentElement)
  if (!player) players.set(parentElement, (player = new Player(parentElement)))
  player.show(data)
  return () => {
    player.end()
    players.delete(parentElement)
  }
}

function html(name, attributes = {}, ...children) {
  const element = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value)
  element.append(...children)
  return element
}

function svg(name, attributes = {}, text) {
  const element = document.createElementNS(SVG, name)
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value)
  if (text !== undefined) element.textContent = text
  return element
}

async function picture(uri) {
  const image = new Image()
  image.src = uri
  await image.decode()
  return image
}

class Player {
  constructor(parent) {
    this.at = 0
    this.timer = null
    this.image = html("canvas", { role: "img" })
    this.heat = html("canvas", { role: "img" })
    this.losses = svg("svg", { role: "img" })
    this.way = svg("svg", { role: "img" })
    this.captions = {}
    const panel = (name, drawing) => {
      const title = html("b"), note = html("span")
      this.captions[name] = { title, note }
      return html("figure", {}, drawing, html("figcaption", {}, title, note))
    }
    this.button = html("button", { type: "button", class: "play" })
    this.button.append(svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }), html("span"))
    this.slider = html("input", { type: "range", min: 0, step: 1, value: 0 })
    this.numbers = {}
    const facts = html("dl")
    for (const name of ["residual", "centering", "score"]) {
      const term = html("dt"), value = html("dd")
      this.numbers[name] = { term, value }
      facts.append(html("div", { class: name }, term, value))
    }
    this.step = html("span", { class: "step" })
    this.root = html(
      "div",
      { class: "film" },
      html(
        "div",
        { class: "panels" },
        panel("image", this.image),
        panel("heat", this.heat),
        panel("losses", this.losses),
        panel("way", this.way),
      ),
      html("div", { class: "controls" }, this.button, this.slider, this.step),
      facts,
    )
    parent.append(this.root)
    this.button.addEventListener("click", () => this.toggle())
    this.slider.addEventListener("input", () => {
      this.stop()
      this.go(Number(this.slider.value))
    })
    this.slider.addEventListener("keydown", (event) => {
      if (event.key !== " ") return // arrows, Home and End are the slider's own
      event.preventDefault()
      this.toggle()
    })
    this.observer = new ResizeObserver(() => this.plots())
    this.observer.observe(this.losses)
  }

  async show(data) {
    const begun = data.key !== this.data?.key
    const pictures = data.images !== this.data?.images || data.maps !== this.data?.maps
    this.data = data
    if (begun) {
      this.stop()
      this.at = 0
    }
    this.words()
    this.plots()
    this.colours = Uint8Array.from(data.colours.match(/../g), (pair) => parseInt(pair, 16))
    if (pictures) {
      const [images, maps] = await Promise.all([picture(data.images), picture(data.maps)])
      if (data !== this.data) return
      this.cut(images, maps)
    }
    this.go(this.at)
  }

  /** The parts that texts and numbers of frames fill. */
  words() {
    const { texts, frames } = this.data
    const { image, heat, losses, way } = this.captions
    image.title.textContent = texts.image
    heat.title.textContent = texts.heat
    heat.note.textContent = texts.heatNote
    losses.title.textContent = texts.losses
    losses.note.textContent = texts.lossesNote
    way.title.textContent = texts.way
    way.note.textContent = texts.wayNote
    this.image.setAttribute("aria-label", texts.altImage)
    this.heat.setAttribute("aria-label", texts.altHeat)
    this.losses.setAttribute("aria-label", texts.altLosses)
    this.way.setAttribute("aria-label", texts.altWay)
    for (const [name, { term }] of Object.entries(this.numbers)) term.textContent = texts[name]
    this.slider.max = frames.length - 1
    this.slider.setAttribute("aria-label", texts.scrub)
    this.named()
  }

  /** Cuts the sheets into the original's grey, the frames' pixels and their maps. */
  cut(images, maps) {
    const { side, mapSide, frames } = this.data
    for (const canvas of [this.image, this.heat]) canvas.width = canvas.height = side
    const scratch = html("canvas", { width: side, height: side })
    const context = scratch.getContext("2d", { willReadFrequently: true })
    context.imageSmoothingQuality = "high"
    const tile = (sheet, size, number) => {
      context.drawImage(sheet, 0, number * size, size, size, 0, 0, side, side)
      return context.getImageData(0, 0, side, side)
    }
    const original = tile(images, side, 0).data
    this.grey = Uint8ClampedArray.from(
      { length: side * side },
      (_, i) => (original[4 * i] + original[4 * i + 1] + original[4 * i + 2]) / 3,
    )
    this.pixels = frames.map((_, number) => tile(images, side, number + 1))
    this.levels = frames.map((_, number) => {
      const map = tile(maps, mapSide, number).data
      return Uint8ClampedArray.from({ length: side * side }, (_, i) => map[4 * i])
    })
  }

  /** Shows one frame. */
  go(number) {
    const { frames, losses, way } = this.data
    this.at = Math.max(0, Math.min(frames.length - 1, number))
    const frame = frames[this.at]
    this.slider.value = this.at
    this.slider.setAttribute("aria-valuetext", frame.said)
    this.slider.style.setProperty("--done", `${(100 * this.at) / Math.max(1, frames.length - 1)}%`)
    this.step.textContent = frame.step
    for (const [name, { value }] of Object.entries(this.numbers)) value.textContent = frame[name]
    this.numbers.score.value.append(html("small", {}, frame.verdict))
    if (this.pixels) {
      this.image.getContext("2d").putImageData(this.pixels[this.at], 0, 0)
      this.heat.getContext("2d").putImageData(this.overlay(), 0, 0)
    }
    if (!this.marks) return
    const { place, cursor, past, dots, path, point } = this.marks
    const x = place.losses(losses[0][this.at])[0]
    cursor.setAttribute("x1", x)
    cursor.setAttribute("x2", x)
    past.setAttribute("width", x)
    dots.forEach((dot, line) => {
      const [cx, cy] = place.losses(losses[line][this.at])
      dot.setAttribute("cx", cx)
      dot.setAttribute("cy", cy)
    })
    path.setAttribute("points", way.slice(0, this.at + 1).map(place.way).join(" "))
    const [cx, cy] = place.way(way[this.at])
    point.setAttribute("cx", cx)
    point.setAttribute("cy", cy)
  }

  /** Heat over the grey image, more opaque where it is hotter, as `anomaly_map.overlay` does. */
  overlay() {
    const { side, opacity } = this.data, levels = this.levels[this.at]
    const drawn = new ImageData(side, side), pixels = drawn.data
    for (let i = 0; i < levels.length; i++) {
      const level = levels[i], weight = opacity * Math.sqrt(level / 255)
      for (let channel = 0; channel < 3; channel++)
        pixels[4 * i + channel] = this.grey[i] * (1 - weight) + this.colours[3 * level + channel] * weight
      pixels[4 * i + 3] = 255
    }
    return drawn
  }

  /** Draws both plots anew: for another film, or at another size. */
  plots() {
    const size = this.losses.clientWidth
    if (!this.data || !size) return
    const { losses, ticks, way, center, normal } = this.data
    for (const plot of [this.losses, this.way]) {
      plot.setAttribute("viewBox", `0 0 ${size} ${size}`)
      plot.replaceChildren()
    }
    const box = { left: 42, top: 10, right: size - 12, bottom: size - 24 }
    const inner = ([x, y]) => [box.left + x * (box.right - box.left), box.bottom - y * (box.bottom - box.top)]
    const square = ([x, y]) => [8 + x * (size - 16), size - 8 - y * (size - 16)]
    const place = { losses: inner, way: square }

    for (const [name, value] of ticks.values) {
      const y = inner([0, value])[1]
      this.losses.append(svg("line", { class: "grid", x1: box.left, x2: box.right, y1: y, y2: y }))
      this.losses.append(svg("text", { class: "tick left", x: box.left - 6, y: y + 4 }, name))
    }
    for (const [name, value] of ticks.steps) {
      const x = inner([value, 0])[0]
      this.losses.append(svg("line", { class: "grid", x1: x, x2: x, y1: box.bottom, y2: box.bottom + 4 }))
      this.losses.append(svg("text", { class: "tick", x, y: size - 6 }, name))
    }
    const clip = svg("clipPath", { id: "past" }), past = svg("rect", { x: 0, y: 0, width: 0, height: size })
    clip.append(past)
    const cursor = svg("line", { class: "cursor", y1: box.top, y2: box.bottom })
    const names = ["residual", "centering"]
    this.losses.append(clip)
    for (const [line, name] of names.entries()) {
      const points = losses[line].map(inner).join(" ")
      this.losses.append(svg("polyline", { class: `${name} future`, points }))
      this.losses.append(svg("polyline", { class: name, points, "clip-path": "url(#past)" }))
    }
    const dots = names.map((name) => svg("circle", { class: name, r: 4.5 }))
    this.losses.append(cursor, ...dots)

    for (const at of normal.map(square)) this.way.append(svg("circle", { class: "normal", cx: at[0], cy: at[1], r: 2.5 }))
    this.way.append(svg("polyline", { class: "path future", points: way.map(square).join(" ") }))
    const path = svg("polyline", { class: "path" }), point = svg("circle", { class: "point", r: 6.5 })
    const start = square(way[0]), [cx, cy] = square(center)
    this.way.append(svg("circle", { class: "start", cx: start[0], cy: start[1], r: 4 }), path, point)
    for (const name of ["center halo", "center"])
      this.way.append(svg("path", { class: name, d: `M${cx - 6} ${cy - 6}l12 12m-12 0l12 -12` }))
    const left = cx > size - 30
    this.way.append(
      svg("text", { class: "center", x: cx + (left ? -10 : 10), y: cy - 9, "text-anchor": left ? "end" : "start" }, "C"),
    )
    this.marks = { place, cursor, past, dots, path, point }
    this.go(this.at)
  }

  toggle() {
    if (this.timer) return this.stop()
    const last = this.data.frames.length - 1
    if (this.at >= last) this.go(0)
    this.timer = setInterval(() => {
      this.go(this.at + 1)
      if (this.at >= last) this.stop()
    }, FRAME)
    this.named()
  }

  stop() {
    clearInterval(this.timer)
    this.timer = null
    if (this.data) this.named()
  }

  /** The button's name and sign. */
  named() {
    const [sign, name] = this.button.children
    const shape = this.timer ? "M6 5h4v14H6zM14 5h4v14h-4z" : "M7 4.5v15l12.5-7.5z"
    name.textContent = this.timer ? this.data.texts.pause : this.data.texts.play
    sign.replaceChildren(svg("path", { d: shape, fill: "currentColor" }))
  }

  end() {
    clearInterval(this.timer)
    this.observer.disconnect()
    this.root.remove()
  }
}
