"use strict";
// The list of events. Only the rows in sight are in the page: it may be half a million long.

const ROW = 22;

class EventList {
  // `goTo(moment)` is called when the keys move through time, `choose(i)` for a click on an event.
  constructor(box, kinds, domains, count, run, goTo, choose) {
    this.box = box;
    this.run = run;
    this.goTo = goTo;
    this.choose = choose;
    this.count = count;
    this.hidden = new Set();
    this.onlyDomain = null;
    this.inner = h("div", { class: "inner" });
    box.append(this.inner);
    box.addEventListener("scroll", () => requestAnimationFrame(() => this.draw()));
    box.addEventListener("keydown", (event) => this.key(event));
    this.makeFilters(kinds, domains);
    this.filter();
  }

  makeFilters(kinds, domains) {
    const totals = new Map();
    for (let i = 0; i < this.run.length; i++) {
      const kind = this.run.kind(i);
      totals.set(kind, (totals.get(kind) || 0) + 1);
    }
    for (const kind of [...totals.keys()].sort()) {
      const button = h("button", { type: "button", class: "key", "aria-pressed": "true",
        "data-kind": kind, click: () => {
          if (!this.hidden.delete(kind)) this.hidden.add(kind);
          button.setAttribute("aria-pressed", String(!this.hidden.has(kind)));
          this.filter();
        } }, h("span", null, kind), h("b", null, totals.get(kind).toLocaleString("en")));
      kinds.append(button);
    }
    domains.append(h("option", { value: "" }, "all domains"));
    for (const domain of this.run.domains) {
      domains.append(h("option", { value: domain.id }, domain.label));
    }
    domains.addEventListener("change", () => {
      this.onlyDomain = domains.value === "" ? null : Number(domains.value);
      this.filter();
    });
  }

  filter() {
    const shown = [];
    for (let i = 0; i < this.run.length; i++) {
      if (this.hidden.has(this.run.kind(i))) continue;
      if (this.onlyDomain !== null && this.run.domain[i] !== this.onlyDomain) continue;
      shown.push(i);
    }
    this.shown = shown;
    this.inner.style.height = `${shown.length * ROW}px`;
    this.count.textContent = shown.length.toLocaleString("en");
    this.follow();
  }

  // The row of the event in hand, or of the last one shown before it.
  row() {
    const i = this.run.now - 1;
    let low = 0, high = this.shown.length;
    while (low < high) {
      const middle = low + high >> 1;
      if (this.shown[middle] <= i) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  // Bring the event in hand into sight.
  follow() {
    const top = Math.max(0, this.row()) * ROW, height = this.box.clientHeight;
    if (top < this.box.scrollTop + ROW || top > this.box.scrollTop + height - 2 * ROW) {
      this.box.scrollTop = top - height / 2;
    }
    this.draw();
  }

  draw() {
    const run = this.run, now = run.now - 1;
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - 2);
    const last = Math.min(this.shown.length, first + Math.ceil(this.box.clientHeight / ROW) + 4);
    const rows = [];
    for (let at = first; at < last; at++) {
      const i = this.shown[at];
      const row = h("div", { class: "event", role: "option", id: `event-${i}`,
        "aria-selected": String(i === now), style: `top: ${at * ROW}px`,
        click: () => this.choose(i) },
      h("span", { class: "number" }, i.toLocaleString("en")),
      h("span", { class: "domain" }, run.domain[i] < 0 ? "" : `d${run.domain[i]}`),
      h("i", { class: `dot category-${run.category[i]}` }),
      h("span", { class: "text" }, eventText(run, i)));
      rows.push(row);
    }
    this.inner.replaceChildren(...rows);
    this.box.setAttribute("aria-activedescendant", now >= 0 ? `event-${now}` : "");
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.box.clientHeight / ROW) - 1);
    const steps = { ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page, Home: -Infinity,
      End: Infinity };
    if (!(event.key in steps) || !this.shown.length) return;
    event.preventDefault();
    const row = Math.max(0, Math.min(this.shown.length - 1, this.row() + steps[event.key]));
    this.goTo(this.shown[row] + 1);
  }
}
