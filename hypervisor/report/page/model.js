"use strict";
// The run: what the trace says, and the state of all frames at any moment of it.
//
// A moment is a number of events: 0 is before the first, `length` after the last. Changes are kept
// with what was there before, so that `seek` goes both ways and costs what lies between.

const XEN = 0x7ff2;
const COW = 0x7ff3;
const FREE = 0xffff;
const VALIDATED = 1;
const TYPES = ["none", "L1 table", "L2 table", "L3 table", "L4 table", "descriptors", "writable",
  "shared"];
const FLAGS = ["validated", "pinned", "allocated", "hypervisor's page"];
const ENTRY_PRESENT = 1;
const ENTRY_WRITABLE = 2;

// What an event is for the timeline. A copy-on-write fault comes as two events, the fault and the
// trap that the guest gets: the second is COPY_TRAP and counted nowhere.
const OTHER = 0, ENTERED = 1, MERGED = 2, COPY = 3, FAULT = 4, COPY_TRAP = 5;
const CATEGORIES = [
  { code: ENTERED, name: "shares entered", color: "--entered" },
  { code: MERGED, name: "shares merged", color: "--merged" },
  { code: COPY, name: "copy-on-write faults", color: "--copy" },
  { code: FAULT, name: "other traps", color: "--fault" },
];

const hex = (number) => "0x" + number.toString(16);

class Run {
  constructor(data) {
    this.source = data.source;
    this.notes = data.notes;
    this.frames = data.frames;
    this.complete = data.complete;
    this.domains = data.domains.map(([id, name, created, ended, destroyed, how]) =>
      ({ id, name, created, ended, destroyed, how, label: `d${id} ${name}`.trim() }));
    this.domainById = new Map(this.domains.map((domain) => [domain.id, domain]));
    this.shapes = data.shapes;
    this.shape = data.events.shape;
    this.values = data.events.values;
    this.domain = Int32Array.from(data.events.domain);
    this.length = this.shape.length;
    this.position = new Float64Array(this.length);
    let position = 0;
    data.events.position.forEach((step, i) => { this.position[i] = position += step; });
    this.readEvents();
    this.readChanges(data.changes);
    this.now = 0;
  }

  // -- events ------------------------------------------------------------------------------

  kind(i) {
    return this.shapes[this.shape[i]][0];
  }

  // One detail of an event, undefined if it has none of that name.
  detail(i, key) {
    const at = this.shapes[this.shape[i]].indexOf(key, 1);
    return at < 0 ? undefined : this.values[i][at - 1];
  }

  // [key, value] of all details of an event.
  details(i) {
    return this.shapes[this.shape[i]].slice(1).map((key, at) => [key, this.values[i][at]]);
  }

  readEvents() {
    const n = this.length;
    this.category = new Uint8Array(n);
    this.mfn = new Int32Array(n).fill(-1); // the frame that an event is about
    this.shared = new Int32Array(n + 1);
    this.mappings = new Int32Array(n + 1);
    this.counts = CATEGORIES.map(() => new Int32Array(n + 1));
    const copying = new Set();
    for (let i = 0; i < n; i++) {
      const kind = this.kind(i);
      let shared = 0, mappings = 0, category = OTHER;
      const mfn = this.detail(i, "mfn");
      if (typeof mfn === "number") this.mfn[i] = mfn;
      if (kind === "share") {
        const merged = this.detail(i, "status") === 1;
        category = merged ? MERGED : ENTERED;
        mappings = 1;
        shared = merged ? 0 : 1;
      } else if (kind === "map_again") {
        mappings = 1;
      } else if (kind === "drop") {
        mappings = -1;
        shared = this.detail(i, "count") === 0 ? -1 : 0;
      } else if (kind === "cow_fault") {
        category = COPY;
        copying.add(this.domain[i]);
      } else if (kind === "trap") {
        const second = this.detail(i, "vector") === 14 && copying.delete(this.domain[i]);
        category = second ? COPY_TRAP : FAULT;
      }
      this.category[i] = category;
      this.shared[i + 1] = this.shared[i] + shared;
      this.mappings[i + 1] = this.mappings[i] + mappings;
      CATEGORIES.forEach(({ code }, at) => {
        this.counts[at][i + 1] = this.counts[at][i] + (category === code ? 1 : 0);
      });
    }
  }

  // Frames that would be in use without sharing, less those that are, at a moment.
  saved(moment) {
    return this.mappings[moment] - this.shared[moment];
  }

  // The domains that exist at a moment.
  alive(moment) {
    return this.domains.filter((domain) =>
      domain.created < moment && (domain.destroyed < 0 || domain.destroyed >= moment)).length;
  }

  // -- frames and tables -------------------------------------------------------------------

  readChanges(changes) {
    const frameRows = changes.frames.rows, entryRows = changes.entries.rows;
    let frameCount = 0, entryCount = 0;
    for (let at = 1; at < frameRows.length; at += 7) frameCount += frameRows[at];
    for (let at = 2; at < entryRows.length; at += 6) entryCount += entryRows[at];
    this.frameLog = new Log(frameCount, 3, this.length);
    this.entryLog = new Log(2 * entryCount, 2, this.length); // each may be forgotten once
    this.word = new Uint32Array(this.frames).fill(FREE); // owner, type << 16, flags << 24
    this.types = new Uint32Array(this.frames);
    this.refs = new Uint32Array(this.frames);
    this.used = new Uint8Array(this.frames); // 1: not free at some moment
    this.tables = new Map(); // MFN -> [MFNs of its entries, their bits]
    let frame = 0, entry = 0;
    for (let i = 0; i < this.length; i++) {
      for (; changes.frames.at[frame] === i; frame++) this.frameRow(frameRows, 7 * frame);
      for (; changes.entries.at[entry] === i; entry++) this.entryRow(entryRows, 6 * entry);
      this.frameLog.end(i);
      this.entryLog.end(i);
    }
    this.word.fill(FREE);
    this.types.fill(0);
    this.refs.fill(0);
    for (const table of this.tables.values()) table.forEach((column) => column.fill(0));
  }

  frameRow(rows, at) {
    const [first, count, owner, type, flags, types, refs] = rows.slice(at, at + 7);
    const word = (owner | type << 16 | flags << 24) >>> 0;
    for (let mfn = first; mfn < first + count; mfn++) {
      this.frameLog.add(mfn, [this.word[mfn], this.types[mfn], this.refs[mfn]],
        [word, types, refs]);
      this.word[mfn] = word;
      this.types[mfn] = types;
      this.refs[mfn] = refs;
      if (owner !== FREE) this.used[mfn] = 1;
      if (!(flags & VALIDATED) && this.tables.has(mfn)) this.forget(mfn);
    }
  }

  forget(mfn) {
    const [mfns, bits] = this.tables.get(mfn);
    for (let index = 0; index < 512; index++) {
      if (bits[index]) this.setEntry(mfn, index, 0, 0);
    }
  }

  entryRow(rows, at) {
    const [table, first, count, mfn, step, bits] = rows.slice(at, at + 6);
    if (!this.tables.has(table)) {
      this.tables.set(table, [new Uint32Array(512), new Uint32Array(512)]);
    }
    for (let i = 0; i < count; i++) this.setEntry(table, first + i, mfn + i * step, bits);
  }

  setEntry(table, index, mfn, bits) {
    const [mfns, allBits] = this.tables.get(table);
    this.entryLog.add(table * 512 + index, [mfns[index], allBits[index]], [mfn, bits]);
    mfns[index] = mfn;
    allBits[index] = bits;
  }

  // Make the state that of a moment.
  seek(moment) {
    const setFrame = (mfn, values, at) => {
      this.word[mfn] = values[at];
      this.types[mfn] = values[at + 1];
      this.refs[mfn] = values[at + 2];
    };
    const setEntry = (key, values, at) => {
      const [mfns, allBits] = this.tables.get(Math.floor(key / 512));
      mfns[key % 512] = values[at];
      allBits[key % 512] = values[at + 1];
    };
    this.frameLog.move(this.now, moment, setFrame);
    this.entryLog.move(this.now, moment, setEntry);
    this.now = moment;
  }

  owner(mfn) { return this.word[mfn] & 0xffff; }
  type(mfn) { return this.word[mfn] >>> 16 & 0xff; }
  flags(mfn) { return this.word[mfn] >>> 24; }

  ownerName(owner) {
    if (owner === FREE) return "free";
    if (owner === COW) return "shared by the machine";
    if (owner === XEN) return "hypervisor";
    const domain = this.domainById.get(owner);
    return domain ? domain.label : `d${owner}`;
  }

  // -- questions about one frame -----------------------------------------------------------

  // All entries that map a frame now: {table, index, level, owner, bits, addresses}.
  mappingsOf(mfn) {
    const found = [];
    let parents = null;
    for (const [table, [mfns, bits]] of this.tables) {
      for (let index = 0; index < 512; index++) {
        if (mfns[index] !== mfn || !(bits[index] & ENTRY_PRESENT)) continue;
        const level = this.type(table);
        parents = parents || this.parents();
        const addresses = level === 1 ? this.addresses(table, index, parents) : [];
        found.push({ table, index, level, owner: this.owner(table), bits: bits[index], addresses });
      }
    }
    return found.sort((a, b) => a.owner - b.owner || a.table - b.table || a.index - b.index);
  }

  // Table -> [table one level up, index] of the entries that lead to it.
  parents() {
    const parents = new Map();
    for (const [table, [mfns, bits]] of this.tables) {
      const level = this.type(table);
      if (level < 2) continue;
      for (let index = 0; index < 512; index++) {
        if (!(bits[index] & ENTRY_PRESENT) || this.type(mfns[index]) !== level - 1) continue;
        const list = parents.get(mfns[index]);
        if (list) list.push([table, index]);
        else parents.set(mfns[index], [[table, index]]);
      }
    }
    return parents;
  }

  // Linear addresses to which an entry of an L1 table belongs; a table may be reached many ways.
  addresses(table, index, parents) {
    const most = 16;
    const found = new Set();
    const climb = (at, level, address) => {
      const up = parents.get(at);
      if (up && level < 4) {
        for (const [parent, slot] of up) {
          if (found.size >= most) return;
          climb(parent, level + 1, address | BigInt(slot) << BigInt(12 + 9 * level));
        }
      } else if (level >= 3) {
        found.add(level === 4 && address >> 47n & 1n ? address | 0xffffn << 48n : address);
      }
    };
    climb(table, 1, BigInt(index) << 12n);
    return [...found].sort((a, b) => (a < b ? -1 : 1)).map(hex);
  }

  // What happened to a frame: {event, before, after}, in order; the states are null where the event
  // is about the frame and changed nothing of it.
  history(mfn) {
    const found = new Map();
    for (const at of this.frameLog.of(mfn)) {
      const event = this.frameLog.event(at);
      const old = found.get(event);
      found.set(event, { event, before: old ? old.before : this.frameLog.before(at),
        after: this.frameLog.after(at) });
    }
    for (let i = 0; i < this.length; i++) {
      const about = this.mfn[i] === mfn || this.detail(i, "old") === mfn;
      if (about && !found.has(i)) found.set(i, { event: i, before: null, after: null });
    }
    return [...found.values()].sort((a, b) => a.event - b.event);
  }

  // Frames that an event changed, ascending.
  changedBy(i) {
    return i < 0 ? [] : [...new Set(this.frameLog.keysOf(i))].sort((a, b) => a - b);
  }
}

// Changes of numbered things: for each the key, and `width` numbers before and after. Grouped by
// event, in the order in which they were made.
class Log {
  constructor(room, width, events) {
    this.width = width;
    this.size = 0;
    this.keys = new Float64Array(room);
    this.old = new Uint32Array(room * width);
    this.new = new Uint32Array(room * width);
    this.ends = new Uint32Array(events);
    this.byKey = null;
  }

  add(key, before, after) {
    const at = this.size++;
    this.keys[at] = key;
    for (let i = 0; i < this.width; i++) {
      this.old[at * this.width + i] = before[i];
      this.new[at * this.width + i] = after[i];
    }
  }

  // Event i has no further changes.
  end(i) {
    this.ends[i] = this.size;
  }

  start(i) {
    return i > 0 ? this.ends[i - 1] : 0;
  }

  before(at) { return this.old.subarray(at * this.width, (at + 1) * this.width); }
  after(at) { return this.new.subarray(at * this.width, (at + 1) * this.width); }

  // Call set(key, array, where its numbers are in there) for what changes between two moments.
  move(from, to, set) {
    const first = this.start(from), last = this.start(to), width = this.width;
    for (let at = first; at < last; at++) set(this.keys[at], this.new, at * width);
    for (let at = first - 1; at >= last; at--) set(this.keys[at], this.old, at * width);
  }

  keysOf(i) {
    return this.keys.subarray(this.start(i), this.ends[i]);
  }

  // The event of a change.
  event(at) {
    let low = 0, high = this.ends.length - 1;
    while (low < high) {
      const middle = low + high >> 1;
      if (this.ends[middle] > at) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  // The changes of one key, in order.
  of(key) {
    if (!this.byKey) {
      this.byKey = new Map();
      for (let at = 0; at < this.size; at++) {
        const list = this.byKey.get(this.keys[at]);
        if (list) list.push(at);
        else this.byKey.set(this.keys[at], [at]);
      }
    }
    return this.byKey.get(key) || [];
  }
}
