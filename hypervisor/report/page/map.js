"use strict";
// The map of frames: one cell a frame, coloured by owner, by type or by how often it is shared.

const MAX_CELLS = 4000000;
const MODES = ["owner", "type", "sharing"];

// [label, variable of the stylesheet] of what a frame can be, by mode; owners are made per run.
const TYPE_CLASSES = [["free", "--free"], ["hypervisor", "--xen"], ["no type", "--none"],
  ["L1 table", "--l1"], ["L2 table", "--l2"], ["L3 table", "--l3"], ["L4 table", "--l4"],
  ["descriptors", "--descriptors"], ["writable", "--writable"], ["shared", "--shared"],
  ["other", "--none"]];
const SHARING_CLASSES = [["free", "--free"], ["not shared", "--none"], ["1 mapping", "--share1"],
  ["2", "--share2"], ["3-4", "--share3"], ["5-8", "--share4"], ["9-16", "--share5"],
  ["17 and more", "--share6"]];

class FrameMap {
  // `pick(mfn)` is called when a person chooses a frame.
  constructor(canvas, legend, hint, run, pick) {
    this.canvas = canvas;
    this.legend = legend;
    this.hint = hint;
    this.run = run;
    this.pick = pick;
    this.mode = "owner";
    this.all = false; // also frames that are free all the time
    this.only = -1; // the class that is singled out by its legend, -1 for none
    this.selected = -1;
    this.small = document.createElement("canvas");
    canvas.addEventListener("click", (event) => this.choose(this.at(event)));
    canvas.addEventListener("mousemove", (event) => this.tell(this.at(event)));
    canvas.addEventListener("mouseleave", () => this.tell(this.selected));
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  // -- layout ------------------------------------------------------------------------------

  layout() {
    const shown = [];
    for (let mfn = 0; mfn < this.run.frames && shown.length < MAX_CELLS; mfn++) {
      if (this.all || this.run.used[mfn]) shown.push(mfn);
    }
    this.shown = Uint32Array.from(shown);
    const width = Math.max(200, this.canvas.parentElement.clientWidth);
    const height = Math.max(180, Math.min(460, window.innerHeight * 0.45));
    this.cell = 16;
    const rowsOf = (cell) => Math.ceil(shown.length / Math.floor(width / cell));
    while (this.cell > 1 && rowsOf(this.cell) * this.cell > height) this.cell--;
    this.columns = Math.max(1, Math.floor(width / this.cell));
    this.rows = Math.max(1, Math.ceil(shown.length / this.columns));
    const scale = window.devicePixelRatio || 1;
    this.scale = scale;
    this.canvas.width = Math.round(this.columns * this.cell * scale);
    this.canvas.height = Math.round(this.rows * this.cell * scale);
    this.canvas.style.width = `${this.columns * this.cell}px`;
    this.canvas.style.height = `${this.rows * this.cell}px`;
    this.small.width = this.columns;
    this.small.height = this.rows;
    this.image = this.small.getContext("2d").createImageData(this.columns, this.rows);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.readColors();
  }

  readColors() {
    const style = getComputedStyle(document.documentElement);
    const dark = style.getPropertyValue("--dark").trim() === "1";
    this.background = style.getPropertyValue("--panel").trim();
    this.ink = style.getPropertyValue("--ink").trim();
    this.mark = style.getPropertyValue("--mark").trim();
    const owners = [["free", "--free"], ["hypervisor", "--xen"], ["shared", "--shared"],
      ["other", "--none"]];
    const read = (classes) => classes.map(([label, variable]) =>
      ({ label, color: style.getPropertyValue(variable).trim() }));
    this.classes = { owner: read(owners), type: read(TYPE_CLASSES),
      sharing: read(SHARING_CLASSES) };
    this.ownerClass = new Map([[FREE, 0], [XEN, 1], [COW, 2]]);
    this.run.domains.forEach((domain, number) => {
      this.ownerClass.set(domain.id, this.classes.owner.length);
      this.classes.owner.push({ label: domain.label, color: domainColor(number, dark) });
    });
    this.palette = {};
    for (const mode of MODES) {
      this.palette[mode] = this.classes[mode].map(({ color }) => toPixel(color));
    }
    this.faded = toPixel(style.getPropertyValue("--free").trim());
  }

  // The number of the class to which a frame belongs in the present mode.
  classOf(mfn) {
    const run = this.run;
    const owner = run.owner(mfn);
    if (this.mode === "owner") return this.ownerClass.get(owner) ?? 3;
    if (owner === FREE) return 0;
    if (this.mode === "sharing") {
      if (owner !== COW) return 1;
      const count = run.refs[mfn];
      return count <= 1 ? 2 : Math.min(7, 2 + Math.ceil(Math.log2(count)));
    }
    if (owner === XEN) return 1;
    const type = run.type(mfn);
    return type > 7 ? 10 : type + 2;
  }

  // -- drawing -----------------------------------------------------------------------------

  draw() {
    const { shown, pixels, cell, scale } = this;
    const palette = this.palette[this.mode];
    const counts = new Array(palette.length).fill(0);
    pixels.fill(0);
    for (let i = 0; i < shown.length; i++) {
      const kind = this.classOf(shown[i]);
      counts[kind]++;
      pixels[i] = this.only < 0 || this.only === kind ? palette[kind] : this.faded;
    }
    this.small.getContext("2d").putImageData(this.image, 0, 0);
    const context = this.canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.drawImage(this.small, 0, 0, this.canvas.width, this.canvas.height);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    if (cell >= 4) this.drawGrid(context);
    const changed = this.run.changedBy(this.run.now - 1);
    context.strokeStyle = this.mark;
    context.lineWidth = 1.5;
    for (const mfn of changed.slice(0, 2000)) this.outline(context, mfn, 0.5);
    context.strokeStyle = this.ink;
    context.lineWidth = 2;
    if (this.selected >= 0) this.outline(context, this.selected, 1.5);
    this.drawLegend(counts);
  }

  drawGrid(context) {
    context.fillStyle = this.background;
    for (let x = 1; x <= this.columns; x++) {
      context.fillRect(x * this.cell - 1, 0, 1, this.rows * this.cell);
    }
    for (let y = 1; y <= this.rows; y++) {
      context.fillRect(0, y * this.cell - 1, this.columns * this.cell, 1);
    }
  }

  outline(context, mfn, wider) {
    const place = this.place(mfn);
    if (place < 0) return;
    const x = place % this.columns * this.cell, y = Math.floor(place / this.columns) * this.cell;
    const size = this.cell + 2 * wider - (this.cell >= 4 ? 1 : 0);
    context.strokeRect(x - wider, y - wider, size, size);
  }

  drawLegend(counts) {
    const items = this.classes[this.mode].map((kind, number) => ({ ...kind, number }))
      .filter(({ number }) => counts[number] || number === this.only);
    const few = items.length > 40 ? items.slice(0, 40) : items;
    const old = this.legend.children;
    while (old.length > few.length) old[old.length - 1].remove();
    few.forEach((item, at) => {
      let button = old[at];
      if (!button) {
        button = h("button", { type: "button", class: "key" }, h("i"), h("span"), h("b"));
        button.addEventListener("click", () => {
          const number = Number(button.dataset.number);
          this.only = this.only === number ? -1 : number;
          this.draw();
        });
        this.legend.append(button);
      }
      const [swatch, label, count] = button.children;
      button.dataset.number = item.number;
      button.dataset.label = item.label;
      button.dataset.count = counts[item.number];
      button.setAttribute("aria-pressed", String(this.only === item.number));
      swatch.style.background = item.color;
      label.textContent = item.label;
      count.textContent = counts[item.number].toLocaleString("en");
    });
  }

  // -- choosing ----------------------------------------------------------------------------

  // Which cell a frame has, -1 if none: the cells are sorted by MFN.
  place(mfn) {
    let low = 0, high = this.shown.length - 1;
    while (low <= high) {
      const middle = low + high >> 1;
      if (this.shown[middle] === mfn) return middle;
      if (this.shown[middle] < mfn) low = middle + 1;
      else high = middle - 1;
    }
    return -1;
  }

  // Where the cell of a frame is on the page, in CSS pixels; null if it has none.
  where(mfn) {
    const place = this.place(mfn);
    if (place < 0) return null;
    const box = this.canvas.getBoundingClientRect();
    return { x: box.left + (place % this.columns + 0.5) * this.cell,
      y: box.top + (Math.floor(place / this.columns) + 0.5) * this.cell };
  }

  // The frame under the pointer, -1 if there is none.
  at(event) {
    const column = Math.floor(event.offsetX / this.cell);
    const row = Math.floor(event.offsetY / this.cell);
    const place = row * this.columns + column;
    const inside = column >= 0 && column < this.columns && place >= 0 && place < this.shown.length;
    return inside ? this.shown[place] : -1;
  }

  tell(mfn) {
    this.hint.textContent = mfn < 0 ? "Point at a frame, or use the arrow keys on the map."
      : frameLine(this.run, mfn);
  }

  choose(mfn) {
    if (mfn < 0) return;
    this.pick(mfn);
  }

  key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns,
      PageUp: -10 * this.columns, PageDown: 10 * this.columns, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || !this.shown.length) return;
    event.preventDefault();
    const from = this.selected < 0 ? 0 : this.place(this.selected);
    const to = this.selected < 0 ? 0 : from + steps[event.key];
    this.choose(this.shown[Math.max(0, Math.min(this.shown.length - 1, to))]);
  }
}

// A frame in a line.
function frameLine(run, mfn) {
  const refs = run.refs[mfn];
  const type = run.types[mfn] ? TYPES[run.type(mfn)] ?? `type ${run.type(mfn)}` : "";
  const parts = [hex(mfn), run.ownerName(run.owner(mfn)), type];
  if (refs) parts.push(`${refs.toLocaleString("en")} reference${refs === 1 ? "" : "s"}`);
  return parts.filter(Boolean).join(" · ");
}

// Colours of domains: turning by the golden angle keeps neighbours apart. The hues of amber are
// left out: they stand for what is shared.
function domainColor(number, dark) {
  const hue = (75 + (140 + number * 114.59) % 300) % 360;
  const light = (dark ? 52 : 58) + (number % 3 - 1) * 8;
  return `hsl(${hue.toFixed(0)} ${dark ? 48 : 52}% ${light}%)`;
}

// A CSS colour as a pixel of image data.
function toPixel(color) {
  const context = document.createElement("canvas").getContext("2d");
  context.fillStyle = color;
  context.fillRect(0, 0, 1, 1);
  return new Uint32Array(context.getImageData(0, 0, 1, 1).data.buffer)[0];
}
