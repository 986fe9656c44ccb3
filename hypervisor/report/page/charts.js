"use strict";
// The two charts over time: what sharing saves, and what each domain does. They have the same
// horizontal axis. Events are gathered per pixel, so that a million of them draw as fast as ten.

const GUTTER = 118; // pixels left of the axis, for names
const MARGIN = 12;
const LANE = 30;
const STRIP = 5;
const MAX_LANES = 300;

class Charts {
  // `seek(moment)` is called when a person points at one.
  constructor(savings, lanes, hint, run, seek) {
    this.savings = savings;
    this.lanes = lanes;
    this.hint = hint;
    this.run = run;
    this.byPosition = true;
    const make = () => document.createElement("canvas");
    this.still = { savings: make(), lanes: make() };
    for (const canvas of [savings, lanes]) {
      const go = (event) => seek(this.momentAt(event.offsetX));
      canvas.addEventListener("pointerdown", (event) => {
        if (event.button !== 0) return;
        canvas.setPointerCapture(event.pointerId);
        go(event);
      });
      canvas.addEventListener("pointermove", (event) => {
        if (event.buttons & 1) go(event);
        this.tell(canvas === lanes, event);
      });
      canvas.addEventListener("mouseleave", () => { hint.textContent = "\u00a0"; });
    }
  }

  // -- the axis ----------------------------------------------------------------------------

  // 0..1 for a moment.
  fraction(moment) {
    const n = this.run.length;
    if (!n) return 0;
    if (!this.byPosition) return moment / n;
    const end = this.run.position[n - 1] || 1;
    return moment === 0 ? 0 : this.run.position[moment - 1] / end;
  }

  x(moment) {
    return GUTTER + this.fraction(moment) * this.width;
  }

  // The last moment that lies at or before an x.
  momentAt(x) {
    const wanted = Math.max(0, Math.min(1, (x - GUTTER) / this.width));
    let low = 0, high = this.run.length;
    while (low < high) {
      const middle = low + high + 1 >> 1;
      if (this.fraction(middle) <= wanted) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  // -- layout: all that does not change with the slider is drawn once ------------------------

  layout() {
    const style = getComputedStyle(document.documentElement);
    this.color = (name) => style.getPropertyValue(name).trim();
    const outer = Math.max(GUTTER + 120, this.savings.parentElement.clientWidth);
    this.width = outer - GUTTER - MARGIN;
    this.shown = this.run.domains.slice(0, MAX_LANES);
    this.size(this.savings, this.still.savings, outer, 128);
    this.size(this.lanes, this.still.lanes, outer, Math.max(1, this.shown.length) * LANE + 4);
    this.drawSavings();
    this.gather();
    this.drawLanes();
  }

  size(canvas, still, width, height) {
    const scale = window.devicePixelRatio || 1;
    for (const one of [canvas, still]) {
      one.width = Math.round(width * scale);
      one.height = Math.round(height * scale);
      one.getContext("2d").setTransform(scale, 0, 0, scale, 0, 0);
    }
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }

  drawSavings() {
    const run = this.run, context = this.still.savings.getContext("2d");
    const top = 14, bottom = 104;
    let most = 1;
    for (let moment = 0; moment <= run.length; moment++) most = Math.max(most, run.saved(moment));
    const y = (value) => bottom - (bottom - top) * Math.max(0, value) / most;
    context.clearRect(0, 0, GUTTER + this.width + MARGIN, 128);
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (const part of [0, 0.5, 1]) {
      if (part === 0.5 && most < 2) continue;
      const value = Math.round(most * part);
      context.fillStyle = this.color("--line");
      context.fillRect(GUTTER, Math.round(y(value)), this.width, 1);
      context.fillStyle = this.color("--dim");
      context.fillText(value.toLocaleString("en"), GUTTER - 8, y(value));
    }
    // One column a pixel: the least and the most that was saved in it.
    context.fillStyle = this.color("--saved");
    let moment = 0, value = 0;
    for (let pixel = 0; pixel <= this.width; pixel++) {
      const edge = (pixel + 1) / this.width;
      let high = value;
      while (moment <= run.length && this.fraction(moment) < edge) {
        value = run.saved(moment);
        high = Math.max(high, value);
        moment++;
      }
      context.globalAlpha = 0.35;
      context.fillRect(GUTTER + pixel, y(high), 1, bottom - y(high));
      context.globalAlpha = 1;
      context.fillRect(GUTTER + pixel, y(high) - 1, 1, Math.max(2, y(value) - y(high) + 1));
    }
    this.drawAxis(context, bottom + 12);
  }

  drawAxis(context, y) {
    const n = this.run.length;
    const end = this.byPosition ? (n ? this.run.position[n - 1] : 0) : n;
    context.fillStyle = this.color("--dim");
    for (const part of [0, 0.25, 0.5, 0.75, 1]) {
      context.textAlign = part === 0 ? "left" : part === 1 ? "right" : "center";
      context.fillText(short(end * part), GUTTER + this.width * part, y);
    }
    context.textAlign = "right";
    context.fillText(this.byPosition ? "instructions" : "events", GUTTER - 8, y);
  }

  // Events by domain, category and pixel.
  gather() {
    const run = this.run;
    const lane = new Map(this.shown.map((domain, at) => [domain.id, at]));
    const columns = Math.ceil(this.width) + 1, kinds = CATEGORIES.length;
    this.bins = this.shown.map(() => CATEGORIES.map(() => new Uint32Array(columns)));
    this.most = new Uint32Array(kinds);
    for (let i = 0; i < run.length; i++) {
      const kind = run.category[i] - 1;
      const at = lane.get(run.domain[i]);
      if (kind < 0 || kind >= kinds || at === undefined) continue;
      const count = ++this.bins[at][kind][Math.floor(this.fraction(i + 1) * this.width)];
      if (count > this.most[kind]) this.most[kind] = count;
    }
  }

  drawLanes() {
    const run = this.run, context = this.still.lanes.getContext("2d");
    context.clearRect(0, 0, GUTTER + this.width + MARGIN, this.shown.length * LANE + 4);
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    const colors = CATEGORIES.map(({ color }) => this.color(color));
    const dark = this.color("--dark") === "1";
    this.shown.forEach((domain, at) => {
      const y = at * LANE + 4;
      context.textAlign = "right";
      context.fillStyle = this.color("--ink");
      context.fillText(clip(domain.label, 14), GUTTER - 22, y + LANE / 2 - 3);
      context.fillStyle = domainColor(at, dark);
      context.fillRect(GUTTER - 16, y + LANE / 2 - 8, 8, 10);
      const first = this.x(Math.max(0, domain.created + 1));
      const last = this.x(domain.destroyed < 0 ? run.length : domain.destroyed + 1);
      context.fillStyle = this.color("--life");
      context.beginPath();
      context.roundRect(first, y, Math.max(3, last - first), LANE - 6, 4);
      context.fill();
      if (domain.ended >= 0) {
        context.fillStyle = this.color("--dim");
        context.fillRect(this.x(domain.ended + 1) - 1, y, 2, LANE - 6);
      }
      this.bins[at].forEach((bins, kind) => {
        context.fillStyle = colors[kind];
        for (let pixel = 0; pixel < bins.length; pixel++) {
          if (!bins[pixel]) continue;
          context.globalAlpha = 0.55 + 0.45 * Math.log1p(bins[pixel]) / Math.log1p(this.most[kind]);
          context.fillRect(GUTTER + pixel - 0.5, y + 2 + kind * STRIP, 2, STRIP - 1);
        }
        context.globalAlpha = 1;
      });
    });
  }

  // -- with the slider -----------------------------------------------------------------------

  draw() {
    const x = Math.round(this.x(this.run.now));
    for (const name of ["savings", "lanes"]) {
      const canvas = this[name], still = this.still[name];
      const context = canvas.getContext("2d");
      context.save();
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, canvas.width, canvas.height);
      context.drawImage(still, 0, 0);
      context.restore();
      context.fillStyle = this.color("--ink");
      context.fillRect(x - 1, 0, 2, canvas.height);
    }
  }

  tell(inLanes, event) {
    const moment = this.momentAt(event.offsetX);
    const run = this.run;
    const parts = [`after event ${moment.toLocaleString("en")}`,
      `${run.saved(moment).toLocaleString("en")} frames saved`];
    const domain = inLanes ? this.shown[Math.floor((event.offsetY - 4) / LANE)] : null;
    if (domain) {
      const pixel = Math.floor(event.offsetX - GUTTER);
      const bins = this.bins[this.shown.indexOf(domain)];
      parts.push(domain.label + (domain.how ? ` (${domain.how})` : ""));
      CATEGORIES.forEach(({ name }, kind) => {
        const count = bins[kind][pixel] || 0;
        if (count) parts.push(`${count.toLocaleString("en")} ${name} here`);
      });
    }
    this.hint.textContent = parts.join(" · ");
  }
}

// A large number in a few characters.
function short(number) {
  for (const [unit, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (number >= unit) return (number / unit).toFixed(number < 10 * unit ? 1 : 0) + name;
  }
  return String(Math.round(number));
}

function clip(text, most) {
  return text.length <= most ? text : text.slice(0, most - 1) + "…";
}
