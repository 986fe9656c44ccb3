"use strict";
// Puts the page together: unpacks the data, and keeps slider, map, charts and lists in step.

class Page {
  constructor(run) {
    const $ = (id) => document.getElementById(id);
    this.$ = $;
    this.run = run;
    this.frame = -1;
    this.drawing = false;
    this.playing = 0;
    const goTo = (moment) => this.goTo(moment), pick = (mfn) => this.pick(mfn);
    this.map = new FrameMap($("map"), $("legend"), $("map-hint"), run, pick);
    this.charts = new Charts($("savings"), $("lanes"), $("chart-hint"), run, goTo);
    this.details = new Details($("event"), $("frame"), run, goTo, pick);
    this.events = new EventList($("events"), $("kinds"), $("only-domain"), $("event-count"), run,
      goTo, (i) => this.choose(i));
    document.title = `${run.source} - cowbird report`;
    $("source").textContent = run.source;
    for (const note of run.notes) $("notes").append(h("p", null, note));
    $("slider").max = run.length;
    $("chart-key").append(...CATEGORIES.map(({ name, color }) =>
      h("span", { class: "key" }, h("i", { style: `background: var(${color})` }), name)));
    this.wire();
    this.layout();
    this.readHash();
  }

  wire() {
    const { $, run } = this;
    $("slider").addEventListener("input", () => this.goTo(Number($("slider").value)));
    const steps = { first: () => 0, previous: () => run.now - 1, next: () => run.now + 1,
      last: () => run.length };
    for (const [id, moment] of Object.entries(steps)) {
      $(id).addEventListener("click", () => this.goTo(moment()));
    }
    $("play").addEventListener("click", () => this.play());
    for (const mode of MODES) {
      $(`by-${mode}`).addEventListener("change", () => {
        this.map.mode = mode;
        this.map.only = -1;
        this.map.draw();
      });
    }
    $("all-frames").addEventListener("change", () => {
      this.map.all = $("all-frames").checked;
      this.map.layout();
      this.map.draw();
    });
    $("axis").addEventListener("change", () => {
      this.charts.byPosition = $("axis").value === "position";
      this.charts.layout();
      this.charts.draw();
    });
    $("find").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = $("mfn").value.trim(), mfn = Number(text);
      const good = text !== "" && Number.isInteger(mfn) && mfn >= 0 && mfn < run.frames;
      $("mfn").setAttribute("aria-invalid", String(!good));
      if (good) this.pick(mfn);
    });
    $("theme").addEventListener("click", () => {
      const root = document.documentElement;
      const dark = getComputedStyle(root).getPropertyValue("--dark").trim() === "1";
      root.dataset.theme = dark ? "light" : "dark";
      this.recolor();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolor());
    let waiting = 0;
    window.addEventListener("resize", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.layout(), 100);
    });
  }

  layout() {
    this.map.layout();
    this.charts.layout();
    this.update();
  }

  recolor() {
    this.map.readColors();
    this.layout();
  }

  // -- the moment ----------------------------------------------------------------------------

  goTo(moment) {
    this.wanted = Math.max(0, Math.min(this.run.length, Math.round(moment)));
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      this.run.seek(this.wanted);
      this.update();
    });
  }

  // An event was pointed at: its moment, and the frame that it is about.
  choose(i) {
    this.goTo(i + 1);
    if (this.run.mfn[i] >= 0 && this.run.mfn[i] < this.run.frames) this.pick(this.run.mfn[i]);
  }

  pick(mfn) {
    this.frame = mfn;
    this.map.selected = mfn;
    this.map.tell(mfn);
    if (this.map.place(mfn) < 0 && !this.map.all) {
      this.$("all-frames").checked = this.map.all = true;
      this.map.layout();
    }
    this.update();
  }

  update() {
    const { $, run } = this;
    const moment = run.now, number = (n) => n.toLocaleString("en");
    $("slider").value = moment;
    const position = moment ? run.position[moment - 1] : 0;
    $("slider").setAttribute("aria-valuetext", `after event ${moment} of ${run.length}`);
    const facts = { moment: `${number(moment)} of ${number(run.length)}`,
      position: number(position),
      alive: number(run.alive(moment)), saved: number(run.saved(moment)),
      shared: number(run.shared[moment]), mappings: number(run.mappings[moment]),
      entered: number(run.counts[0][moment]), merged: number(run.counts[1][moment]),
      copies: number(run.counts[2][moment]), faults: number(run.counts[3][moment]) };
    for (const [name, text] of Object.entries(facts)) $(`now-${name}`).textContent = text;
    this.map.draw();
    this.charts.draw();
    this.details.showEvent();
    this.details.showFrame(this.frame);
    this.events.follow();
    this.writeHash();
  }

  // Run through all events in about 20 seconds.
  play() {
    const stop = () => {
      cancelAnimationFrame(this.playing);
      this.playing = 0;
      this.$("play").textContent = "Play";
    };
    if (this.playing) return stop();
    const { run } = this;
    const start = run.now >= run.length ? 0 : run.now;
    let begun = 0;
    const step = (time) => {
      begun = begun || time;
      const moment = start + (time - begun) * Math.max(2, run.length / 20) / 1000;
      run.seek(Math.min(run.length, Math.floor(moment)));
      this.update();
      if (run.now < run.length && this.playing) this.playing = requestAnimationFrame(step);
      else stop();
    };
    this.$("play").textContent = "Stop";
    this.playing = requestAnimationFrame(step);
    return undefined;
  }

  // -- the address: "#event=123&frame=0x1a2b" is this view -------------------------------------

  readHash() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const mfn = Number(asked.get("frame") ?? NaN), moment = Number(asked.get("event") ?? NaN);
    const mode = asked.get("by");
    if (MODES.includes(mode)) {
      this.$(`by-${mode}`).checked = true;
      this.map.mode = mode;
    }
    this.run.seek(Number.isInteger(moment) && moment >= 0 ? Math.min(moment + 1, this.run.length)
      : this.run.length);
    if (Number.isInteger(mfn) && mfn >= 0 && mfn < this.run.frames) this.pick(mfn);
    else this.update();
  }

  writeHash() {
    clearTimeout(this.hashing);
    this.hashing = setTimeout(() => {
      const parts = [`event=${this.run.now - 1}`];
      if (this.frame >= 0) parts.push(`frame=${hex(this.frame)}`);
      try {
        history.replaceState(null, "", `#${parts.join("&")}`);
      } catch {
        // A browser may forbid it for files, or if it is done too often: a convenience only.
      }
    }, 300);
  }
}

async function unpack() {
  const text = document.getElementById("data").textContent.trim();
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

unpack().then((data) => {
  document.body.classList.add("ready");
  window.cowbird = new Page(new Run(data));
  document.body.dataset.ready = "true";
}).catch((error) => {
  document.body.dataset.failed = "true";
  document.body.classList.remove("ready");
  document.getElementById("loading").textContent = `This page cannot be shown: ${error}`;
});
