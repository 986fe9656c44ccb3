"use strict";
// What is said of one event and of one frame.

const MAX_ROWS = 400;
const AVL_SHIFT = 9;
const ERROR_BITS = ["P", "W", "U", "RSVD", "I"];
const VECTORS = { 0: "#DE", 1: "#DB", 2: "NMI", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM",
  8: "#DF", 10: "#TS", 11: "#NP", 12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC",
  19: "#XM" };

// An element. Text always goes in as text: names in a trace are whatever a guest called itself.
function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// An event in a line, without its number and its domain.
function eventText(run, i) {
  const get = (key) => run.detail(i, key);
  const frame = (key) => hex(get(key));
  switch (run.kind(i)) {
    case "create": return `created: ${get("name")}`;
    case "exit": return `ends: ${get("reason")}, code ${get("code")}`;
    case "destroy": return "destroyed";
    case "share":
      return get("status") === 1 ? `merged ${frame("old")} into ${frame("mfn")}`
        : `entered ${frame("mfn")}`;
    case "again": return `shared again ${frame("mfn")}`;
    case "refuse": return `share refused: ${get("reason")} (${get("errno")})`;
    case "map_again": return `mapped again ${frame("mfn")}, count ${get("count")}`;
    case "drop":
      return get("count") ? `dropped ${frame("mfn")}, ${get("count")} left`
        : `freed ${frame("mfn")}`;
    case "cow_fault": return `write to shared ${frame("mfn")} at ${get("va")}`;
    case "trap": {
      const vector = get("vector"), error = get("error");
      const name = VECTORS[vector] || `vector ${vector}`;
      const bits = vector === 14 && error !== null ? ` (${errorBits(error)})` : "";
      return `${name}${bits} at ${get("rip")}`;
    }
    case "hypercall": return `${get("name")} = ${get("result") ?? "elsewhere"}`;
    default: return `${run.kind(i)} ${run.details(i).map(([k, v]) => `${k}=${v}`).join(" ")}`;
  }
}

function errorBits(error) {
  return ERROR_BITS.filter((_, bit) => error >> bit & 1).join(" ") || "0";
}

class Details {
  // `goTo(moment)` and `pick(mfn)` are called when a person follows a link.
  constructor(eventBox, frameBox, run, goTo, pick) {
    this.eventBox = eventBox;
    this.frameBox = frameBox;
    this.run = run;
    this.goTo = goTo;
    this.pick = pick;
  }

  frameLink(mfn) {
    return h("button", { type: "button", class: "link", "data-mfn": mfn,
      click: () => this.pick(mfn) }, hex(mfn));
  }

  eventLink(i) {
    return h("button", { type: "button", class: "link", "data-event": i,
      click: () => this.goTo(i + 1) }, `#${i.toLocaleString("en")}`);
  }

  showEvent() {
    const run = this.run, i = run.now - 1;
    if (i < 0) {
      this.eventBox.replaceChildren(h("p", { class: "dim" }, "Before the first event."));
      return;
    }
    const domain = run.domain[i] < 0 ? "machine" : run.ownerName(run.domain[i]);
    const rows = [["position", run.position[i].toLocaleString("en")], ["domain", domain]];
    for (const [key, value] of run.details(i)) {
      const frame = Number.isInteger(value) && value >= 0 && value < run.frames;
      if (frame && ["mfn", "old", "table"].includes(key)) rows.push([key, this.frameLink(value)]);
      else rows.push([key, Array.isArray(value) ? value.join(" ") : String(value)]);
    }
    const at = run.detail(i, "table"), index = run.detail(i, "index");
    if (run.tables.has(at)) {
      rows.push(["address", run.addresses(at, index, run.parents()).join(" ") || "none"]);
    }
    const changed = run.changedBy(i);
    const links = changed.slice(0, 24).map((mfn) => this.frameLink(mfn));
    if (changed.length > links.length) links.push(` and ${changed.length - links.length} more`);
    if (links.length) rows.push(["changed", h("span", { class: "links" }, ...links)]);
    this.eventBox.replaceChildren(
      h("p", { class: "what" }, `#${i.toLocaleString("en")} `, eventText(run, i)), table(rows));
  }

  showFrame(mfn) {
    const run = this.run;
    if (mfn < 0) {
      this.frameBox.replaceChildren(h("p", { class: "dim" },
        "Choose a frame on the map, in an event, or by its number."));
      return;
    }
    const owner = run.owner(mfn), flags = run.flags(mfn);
    const names = FLAGS.filter((_, bit) => flags >> bit & 1);
    const rows = [["owner", run.ownerName(owner)],
      ["type", run.types[mfn] ? TYPES[run.type(mfn)] ?? String(run.type(mfn)) : "none"],
      ["type count", run.types[mfn].toLocaleString("en")],
      [owner === COW ? "sharing count" : "references", run.refs[mfn].toLocaleString("en")]];
    if (names.length) rows.push(["flags", names.join(", ")]);
    const key = this.contents(mfn);
    if (owner === COW && key) rows.push(["contents", key]);
    this.frameBox.replaceChildren(h("p", { class: "what" }, `Frame ${hex(mfn)} (${mfn})`),
      table(rows), ...this.mappings(mfn), ...this.history(mfn));
  }

  // The hash under which a shared frame was entered.
  contents(mfn) {
    for (let i = this.run.now - 1; i >= 0; i--) {
      if (this.run.mfn[i] === mfn && this.run.kind(i) === "share") return this.run.detail(i, "key");
    }
    return null;
  }

  mappings(mfn) {
    const run = this.run;
    if (!run.complete) return [h("p", { class: "dim" }, "The trace tells of no mappings.")];
    const found = run.mappingsOf(mfn);
    const title = h("h3", { id: "mapped" }, `Mapped by ${found.length.toLocaleString("en")} ` +
      (found.length === 1 ? "entry" : "entries"));
    if (!found.length) return [title];
    const body = found.slice(0, MAX_ROWS).map((mapping) => {
      const { table: at, index, level, owner, bits, addresses } = mapping;
      const avl = bits >> AVL_SHIFT & 7;
      const rights = bits & ENTRY_WRITABLE ? "writable" : "read-only";
      const place = level > 1 ? `as a table, by an L${level}`
        : addresses.join(" ") || "no address";
      return h("tr", null, h("td", null, run.ownerName(owner)), h("td", { class: "mono" }, place),
        h("td", null, rights + (avl ? `, AVL ${avl}` : "")),
        h("td", null, this.frameLink(at), ` [${index}]`));
    });
    return [title, h("div", { class: "scroll" }, h("table", { class: "list", id: "mappings" },
      h("thead", null, h("tr", null, ...["domain", "address", "rights", "entry"].map((name) =>
        h("th", null, name)))), h("tbody", null, ...body))), more(found.length)];
  }

  history(mfn) {
    const run = this.run;
    const found = run.history(mfn);
    const title = h("h3", null, `History: ${found.length.toLocaleString("en")} ` +
      (found.length === 1 ? "event" : "events"));
    const here = found.findLastIndex(({ event }) => event < run.now);
    const from = Math.max(0, Math.min(here - MAX_ROWS / 2, found.length - MAX_ROWS));
    const body = found.slice(from, from + MAX_ROWS).map(({ event, before, after }, at) => {
      const row = h("tr", null, h("td", null, this.eventLink(event)),
        h("td", null, run.domain[event] < 0 ? "" : `d${run.domain[event]}`),
        h("td", null, eventText(run, event), h("br"),
          h("span", { class: "dim" }, before ? this.change(before, after) : "")));
      if (from + at === here) row.setAttribute("aria-current", "true");
      return row;
    });
    const list = h("div", { class: "scroll", tabindex: "0" },
      h("table", { class: "list", id: "history" }, h("tbody", null, ...body)));
    return [title, list, more(found.length)];
  }

  // What is different: owner, type, flags and counts, each only if it is.
  change(before, after) {
    const run = this.run;
    const state = ([word, types, refs]) => [run.ownerName(word & 0xffff),
      types ? TYPES[word >>> 16 & 0xff] ?? "other" : "no type",
      FLAGS.filter((_, bit) => word >>> 24 >> bit & 1).join("+") || "no flags", refs];
    const old = state(before), now = state(after);
    const parts = ["", "", "", "references "].map((name, at) =>
      (old[at] === now[at] ? "" : `${name}${old[at]} → ${now[at]}`));
    return parts.filter(Boolean).join(", ") || "type count only";
  }
}

function more(length) {
  return length > MAX_ROWS ? h("p", { class: "dim" }, `${MAX_ROWS} of them are listed.`) : "";
}

function table(rows) {
  return h("table", { class: "facts" }, h("tbody", null, ...rows.map(([name, value]) =>
    h("tr", null, h("th", { scope: "row" }, name), h("td", null, value)))));
}
