// The explorer: what is chosen, and how it is drawn. All that it shows stands in the element #data; it asks nothing of
// anywhere else. Labels and names of files are put in as text, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const [channels, height, width] = data.shape;
const area = height * width;
const size = channels * area;
const LEVELS = 63; // of a displacement on either side of zero, as pictures.py has them
const MARGIN = 6; // the null's histogram goes from -6 to 6
const UNTAPED = "This picture was given, and lies on no noise tape: no counterfactual of it (queries.invert=true).";
const VIEWS = { factual: "factual", exact: "exact", first: "first order" };

// What is looked at: `item` is a unit's number or a set's name, as text. How the list is made. How pictures are drawn.
const chosen = {
  ...{ set: 0, query: 0, item: null },
  ...{ listed: "units", method: 0, sort: "score", text: "", passes: false },
  ...{ view: "factual", amplify: 3, colours: false },
};
let turn = 0; // of queries shown: what was unpacked for an older one is dropped
let rows = []; // of the list, in order

const at = (id) => document.getElementById(id);
const set = () => data.sets[chosen.set];
const query = () => set().queries[chosen.query];
const row = () => rows.find((each) => each.id === chosen.item);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

const passing = (count, noun) => `${plural(count, noun)} pass${count === 1 ? "es" : ""}`;

// Of units that are in the table for another reason than their rank, it is not known.
function ranked(rank) {
  return rank == null ? "not among the best" : `rank ${rank.toLocaleString("en")}`;
}

// Three digits; a minus and not a hyphen; small numbers as powers of ten.
function number(value, digits = 3) {
  if (value == null) return "–";
  const far = value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5);
  return (far ? value.toExponential(digits - 2) : String(+value.toPrecision(digits))).replaceAll("-", "−");
}

const chance = (value) => number(value, 2);
const deviations = (value) => (value == null ? "–" : value.toFixed(2).replace("-", "−"));

// ---- pictures

async function unpacked(text, Kind, across) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const values = new Kind(await new Response(stream).arrayBuffer());
  for (let i = 0; i < values.length; i++) if (i % across) values[i] += values[i - 1]; // wraps around, as it was packed
  return values;
}

// Each thing is unpacked when it is first looked at, and kept.
async function unpack(packed, Kind, across = width) {
  if (packed) packed.whole ??= await unpacked(packed.values, Kind, across);
}

function pixels(stepped, place) {
  const step = stepped.steps[place];
  return Float32Array.from(stepped.whole.subarray(place * size, (place + 1) * size), (value) => value * step);
}

const plus = (one, other) => one.map((value, i) => value + other[i]);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const byte = (value) => Math.round(clamp((value + 1) * 127.5, 0, 255));

function paint(canvas, colour, across = width, down = height) {
  canvas.width = across;
  canvas.height = down;
  const context = canvas.getContext("2d");
  const image = context.createImageData(across, down);
  for (let i = 0; i < across * down; i++) image.data.set([...colour(i), 255], 4 * i);
  context.putImageData(image, 0, 0);
}

function natural(values) {
  const planes = channels === 3 ? [0, 1, 2] : [0, 0, 0];
  return (i) => planes.map((plane) => byte(values[(plane * values.length) / channels + i]));
}

// Brown where brighter, violet where darker, neutral at zero, as in figure 5; or grey and the change in its colours.
function signed(values, limit) {
  const [zero, more, less] = ["--zero", "--plus", "--minus"].map(themed);
  if (chosen.colours) return natural(values.map((value) => value / limit));
  return (i) => {
    let mean = 0;
    for (let plane = 0; plane < channels; plane++) mean += values[plane * area + i] / channels;
    return mixed(mean / limit, zero, more, less);
  };
}

function mixed(part, zero, more, less) {
  const end = part > 0 ? more : less;
  const share = Math.min(1, Math.abs(part));
  return zero.map((value, channel) => Math.round(value + share * (end[channel] - value)));
}

function themed(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((start) => parseInt(text.slice(start, start + 2), 16));
}

const addresses = new Map();
function address(key, values, across, down) {
  if (!addresses.has(key)) {
    const canvas = make("canvas");
    paint(canvas, natural(values()), across, down);
    addresses.set(key, canvas.toDataURL());
  }
  return addresses.get(key);
}

function trained(place, words) {
  const { shape, whole, files } = data.pictures;
  const own = shape[0] * shape[1] * shape[2];
  const shade = () => Float32Array.from(whole.subarray(place * own, (place + 1) * own), (value) => value / 127.5 - 1);
  const alt = `training picture of ${words}${files[place] ? `, ${files[place]}` : ""}`;
  return make("img", { src: address(`training ${place}`, shade, shape[2], shape[1]), alt, title: files[place] });
}

function generated(place, alt) {
  const shade = () => pixels(set().factual, place);
  return make("img", { src: address(`${chosen.set} ${place}`, shade, width, height), alt });
}

// One scale for all differences of the page: the largest of them, before it is amplified.
const steps = data.sets.flatMap((each) => each.queries.flatMap(({ first, exact }) => [first, exact]));
const largest = LEVELS * steps.reduce((most, stepped) => Math.max(most, ...(stepped ? stepped.steps : [])), 0);

// ---- the list

const passes = (q) => q != null && q <= set().level;

function listedUnits() {
  const asked = query();
  const { key } = set().methods[chosen.method];
  const support = asked.scores[set().methods[0].key];
  return asked.units.map((unit, place) => ({
    id: String(unit),
    unit,
    place,
    ...data.named[unit],
    score: asked.scores[key][place],
    support: support[place],
    about: ranked(asked.ranks[key][place]),
    sized: data.named[unit].of > 1 ? `${plural(data.named[unit].of, "picture")}, ` : "",
    p: asked.p[place],
    q: asked.q[place],
    z: asked.z[place],
    pictures: asked.pictures[place],
    null: asked.nulls[place],
  }));
}

function listedSets() {
  const { name, size: sizes, score, p, q, z, pictures } = query().sets;
  return name.map((id, i) => ({
    id,
    name: id.replace(":", " "),
    score: score[i],
    about: plural(sizes[i], "unit"),
    p: p[i],
    q: q[i],
    z: z[i],
    pictures: pictures[i],
  }));
}

// What has no number comes last.
const ascending = (one, other) => (one ?? Infinity) - (other ?? Infinity) || 0;
const descending = (one, other) => (other ?? -Infinity) - (one ?? -Infinity) || 0;
const ORDERS = {
  score: (one, other) => descending(one.score, other.score),
  p: (one, other) => ascending(one.p, other.p) || descending(one.score, other.score),
  q: (one, other) => ascending(one.q, other.q) || descending(one.score, other.score),
  z: (one, other) => descending(one.z, other.z),
  name: (one, other) => one.name.localeCompare(other.name, "en", { numeric: true }),
};

function matches(each) {
  const files = each.pictures.map((place) => data.pictures.files[place] ?? "");
  const words = [each.name, each.label ?? "", ...files].join(" ").toLowerCase();
  return words.includes(chosen.text.toLowerCase()) && (passes(each.q) || !chosen.passes);
}

function showList() {
  const units = chosen.listed === "units";
  const focused = at("list").contains(document.activeElement);
  const all = (units ? listedUnits() : listedSets()).sort(ORDERS[chosen.sort]);
  const found = all.filter(matches);
  const [good, others] = [found.filter((each) => passes(each.q)), found.filter((each) => !passes(each.q))];
  rows = [...good, ...others];
  if (!row()) chosen.item = rows[0]?.id ?? null;
  const heading = `${passing(good.length, units ? "unit" : "set")} the test (q ≤ ${set().level})`;
  const groups = [group("pass", heading, good, nonePasses(all, units))];
  const left = units ? query().passing - all.filter((each) => passes(each.q)).length : 0;
  if (left) groups.push(make("p", { class: "empty" }, `${left} more pass, of smaller support: not on this page.`));
  if (!chosen.passes) groups.push(group("not", "Do not pass: nothing may be claimed", others, "None."));
  at("list").replaceChildren(...groups);
  mark(focused);
  at("method-choice").hidden = !units;
  const { passing: most, best } = data.sizes;
  at("listed").textContent = units
    ? `${all.length} of ${plural(data.units, "unit")} are listed: those that pass (${most} at most), and the ${best} ` +
      "best by each method. influence.parquet has more."
    : "A set is scored and tested as one. Every neighbourhood of nearest units is listed; of other kinds those that " +
      `pass, and the ${best} of largest z.`;
}

function nonePasses(all, units) {
  if (all.some((each) => passes(each.q))) return "None of those that pass is called so.";
  if (!units) return "No set passes for this picture.";
  const { resolution } = query();
  const near = resolution > 1 ? ` Its ${plural(resolution, "nearest unit")} together do: see the sets.` : "";
  return `No single unit passes for this picture.${near}`;
}

const scored = () => (chosen.listed === "units" && chosen.method === 0 ? "support" : "score");

function group(kind, heading, members, none) {
  const columns = [scored(), "p", "q", "z"].map((name) => make("span", { "aria-hidden": "true" }, name));
  return make(
    "div",
    { role: "group", "aria-label": heading, class: kind },
    make("div", { class: "head" }, make("h3", {}, heading), ...(members.length ? columns : [])),
    ...(members.length ? members.map(option) : [make("p", { class: "empty" }, none)]),
  );
}

function option(each) {
  const [first, ...more] = each.pictures.map((place) => trained(place, each.name));
  const numbers = { [scored()]: number(each.score), p: chance(each.p), q: chance(each.q), z: deviations(each.z) };
  const said = Object.entries(numbers).map(([name, value]) => `${name} ${value}`);
  return make(
    "div",
    {
      role: "option",
      class: "row",
      "aria-label": [each.name, each.about, ...said].join(", "),
      "data-item": each.id,
      onclick: () => choose(each.id, true),
    },
    first ?? make("span"),
    make(
      "div",
      { class: "who" },
      make("div", { class: "name" }, each.name),
      make("div", { class: "about" }, `${each.sized ?? ""}${each.about}`),
      more.length > 0 && make("div", { class: "thumbs" }, ...more),
    ),
    ...Object.entries(numbers).map(([name, value]) => make("div", { class: "cell", "data-name": name }, value)),
  );
}

// One of the list is chosen, and is what Tab goes to.
function mark(focused) {
  for (const element of at("list").querySelectorAll("[role=option]")) {
    const here = element.dataset.item === chosen.item;
    element.setAttribute("aria-selected", String(here));
    element.tabIndex = here ? 0 : -1;
    if (here && focused) element.focus({ preventScroll: true });
  }
}

function choose(id, clicked = false) {
  chosen.item = id;
  mark(true);
  if (!clicked) reveal(at("list").querySelector("[aria-selected=true]"), at("list"));
  showItem();
  if (clicked && matchMedia("(max-width: 46rem)").matches) at("detail").scrollIntoView();
}

// Scrolls a box, and not the page, as little as it takes.
function reveal(element, box) {
  const [inner, outer] = [element.getBoundingClientRect(), box.getBoundingClientRect()];
  const margin = box === at("list") ? 48 : 8; // of the heading that stays
  if (inner.top < outer.top + margin) box.scrollTop -= outer.top + margin - inner.top;
  if (inner.bottom > outer.bottom) box.scrollTop += inner.bottom - outer.bottom;
  if (inner.left < outer.left + margin) box.scrollLeft -= outer.left + margin - inner.left;
  if (inner.right > outer.right - margin) box.scrollLeft += inner.right - outer.right + margin;
}

// ---- what is chosen of the list

function showItem() {
  const each = row();
  at("detail").hidden = !each;
  keepAddress();
  if (!each) return;
  const [unit, yes] = [each.unit != null, passes(each.q)];
  at("detail-name").textContent = each.name;
  const verdict = `${yes ? "passes" : "does not pass"}, q = ${chance(each.q)}`;
  at("detail-verdict").replaceChildren(make("span", { class: `verdict ${yes ? "pass" : "not"}` }, verdict));
  const { label } = set().methods[chosen.method];
  const other = chosen.method ? `, which scores it ${number(each.score)}` : "";
  at("detail-rank").textContent = unit
    ? `${each.sized}${each.about} of ${data.units.toLocaleString("en")} by ${label}${other}`
    : `${each.about}, scored and tested as one`;
  const first = unit ? { support: number(each.support) } : { score: number(each.score) };
  const numbers = { ...first, p: chance(each.p), q: chance(each.q), z: deviations(each.z) };
  at("detail-numbers").replaceChildren(
    ...Object.entries(numbers).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
  );
  const shown =
    each.pictures.length > 1 ? `The nearest to ${query().name} of its training pictures` : "Its training picture";
  at("detail-pictures").replaceChildren(
    ...each.pictures.map((place) => trained(place, each.name)),
    make("p", {}, each.pictures.length ? shown : "Which pictures it has is not known here."),
  );
  showPictures();
  showNull(each);
  at("commands").replaceChildren(
    code("command", ["ddattr attribute", quoted(folder()), ...set().arguments.map(quoted)].join(" ")),
    code("Python", asking(each)),
  );
}

// The chosen picture, and beside it what changes without the unit: exactly if that was replayed, else to first order.
function showPictures() {
  const each = row();
  const { first, exact } = query();
  const possible = each.unit != null && (first || exact);
  at("compare").hidden = !possible;
  at("no-compare").textContent = possible
    ? ""
    : each.unit == null
      ? "A set is not taken out as a whole here."
      : UNTAPED;
  at("replay").replaceChildren();
  if (!possible) return;
  const moved = { exact: without(exact, each.unit), first: without(first, each.unit) };
  const factual = chosen.view === "factual";
  const kind = factual ? (moved.exact ? "exact" : "first") : chosen.view;
  const how = { exact: "exactly", first: "to first order" }[kind];
  const known = moved[kind] != null;
  at("picture-figure").hidden = !known && !factual;
  at("difference-figure").hidden = at("scale").hidden = !known;
  if (!known) at("replay").replaceChildren(...notHere(each, kind));
  const base = pixels(set().factual, chosen.query);
  if (known || factual) paint(at("picture"), natural(factual ? base : plus(base, moved[kind])));
  caption("picture", factual ? `${query().name}, as it is` : `without ${each.name}, ${how}`);
  if (!known) return;
  const limit = (largest || 1) / 2 ** chosen.amplify;
  paint(at("difference"), signed(moved[kind], limit));
  caption("difference", `what changes without it, ${how}`);
  showScale(limit);
}

function without(moved, unit) {
  const place = moved ? moved.units.indexOf(unit) : -1;
  return place < 0 ? null : pixels(moved, place);
}

function caption(id, words) {
  at(id).setAttribute("aria-label", words);
  at(`${id}-words`).textContent = words;
}

function showScale(limit) {
  const [zero, more, less] = ["--zero", "--plus", "--minus"].map(themed);
  const part = (i) => (i - 64) / 64;
  paint(
    at("legend"),
    (i) => (chosen.colours ? Array(3).fill(byte(part(i))) : mixed(part(i), zero, more, less)),
    129,
    1,
  );
  at("legend").setAttribute("aria-label", `Scale of the change, from ${number(-limit)} to ${number(limit)}`);
  at("darker").textContent = `${number(-limit)} darker`;
  at("brighter").textContent = `brighter +${number(limit)}`;
  at("amplified").textContent = `× ${number(2 ** chosen.amplify)}`;
}

function showNull(each) {
  const none = !query().nulls.some(Boolean) && "This run has kept no nulls (nulls.parquet).";
  const missing = each.unit == null ? "The null of a set is not kept." : none || "Its null was not kept.";
  if (!each.null) return at("null").replaceChildren(make("p", {}, missing));
  const total = each.null.reduce((sum, count) => sum + count, 0).toLocaleString("en");
  const words =
    `What ${total} codewords that no unit holds score here, in standard deviations. Coloured: as much as this unit, ` +
    `or more; p = ${chance(each.p)}${data.p_by ? `, by ${data.p_by}` : ""}.`;
  at("null").replaceChildren(histogram(each.null, each.z, words), make("p", {}, words));
}

function histogram(counts, z, words) {
  const [across, down] = [300, 84];
  const draw = (tag, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text != null) element.textContent = text;
    return element;
  };
  const x = (value) => ((clamp(value, -MARGIN, MARGIN) + MARGIN) / (2 * MARGIN)) * across;
  const svg = draw("svg", {
    viewBox: `0 -14 ${across} ${down + 30}`,
    role: "img",
    "aria-label": `${words} z = ${deviations(z)}`,
  });
  const most = Math.max(...counts, 1);
  counts.forEach((count, i) => {
    const from = -MARGIN + (i * 2 * MARGIN) / counts.length;
    const tall = (count / most) * down;
    const kind = z != null && from + MARGIN / counts.length >= z ? "bar beyond" : "bar";
    const box = { x: x(from) + 0.5, y: down - tall, width: across / counts.length - 1, height: tall, class: kind };
    if (count) svg.append(draw("rect", box));
  });
  svg.append(draw("line", { x1: 0, x2: across, y1: down, y2: down, class: "axis" }));
  for (const tick of [-6, -3, 0, 3, 6]) {
    svg.append(
      draw(
        "text",
        { x: x(tick), y: down + 12, "text-anchor": tick === -6 ? "start" : tick === 6 ? "end" : "middle" },
        tick,
      ),
    );
  }
  if (z != null) {
    const anchor = z > 3 ? "end" : z < -3 ? "start" : "middle";
    svg.append(draw("line", { x1: x(z), x2: x(z), y1: 0, y2: down, class: "mark" }));
    svg.append(
      draw(
        "text",
        { x: x(z), y: -4, class: "here", "text-anchor": anchor },
        `z = ${deviations(z)}${z > MARGIN ? " →" : ""}`,
      ),
    );
  }
  return svg;
}

// ---- what made it

// The page lies in the run's folder, which may have been moved since: where it is opened from says where that is.
function folder() {
  if (location.protocol !== "file:") return `runs/${data.run}`;
  const path = decodeURIComponent(location.pathname).replace(/\/[^/]*$/, "");
  return path.replace(/^\/(?=[A-Za-z]:)/, "") || "/";
}

const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);

const loading = () => ["import ddattr", `run = ddattr.load(${JSON.stringify(folder())})`];

function asking(each) {
  const asked = query().query;
  const found = set().name === "default" && each.unit != null ? "run" : `run.sets[${JSON.stringify(set().name)}]`;
  const table =
    each.unit == null
      ? [`sets = ${found}.sets`, `sets[(sets["query"] == ${asked}) & (sets["set"] == ${JSON.stringify(each.id)})]`]
      : [`${found}.influence.query("query == ${asked} and unit == ${each.unit}")`];
  return [...loading(), `${found}.best(query=${asked})`, ...table].join("\n");
}

function notHere(each, kind) {
  const { first, replay_error: inverted } = query();
  const why =
    kind === "exact"
      ? "It was not replayed without this unit."
      : first
        ? "This page has no room for it."
        : "This run has no Jacobian.";
  if (inverted != null) return [make("p", { class: "note" }, `${why} attribution.refine replays more of the best.`)];
  return [make("p", { class: "note" }, `${why} This replays it exactly:`), code("Python", replaying(each))];
}

function replaying(each) {
  return [
    ...loading(),
    "import torch",
    `codewords = run.codebook.codewords(torch.tensor([${each.unit}]))`,
    `without = ddattr.counterfactual(run.ensemble, codewords, [${query().query}], run.reverse, run.data.shape)`,
  ].join("\n");
}

function code(label, text) {
  const said = make("code", {}, text);
  const button = make(
    "button",
    { type: "button", "aria-label": `Copy the ${label}`, onclick: () => copy(said, button) },
    "copy",
  );
  return make("div", { class: "code" }, make("div", {}, make("span", {}, label), button), make("pre", {}, said));
}

async function copy(said, button) {
  try {
    await navigator.clipboard.writeText(said.textContent);
  } catch {
    getSelection().selectAllChildren(said); // where a page may not write there, it is marked for a person to copy
    document.execCommand("copy");
  }
  button.textContent = "copied";
  setTimeout(() => (button.textContent = "copy"), 1500);
}

// ---- queries and sets of them

// Where queries are chosen: above the card, and in the explorer.
const STRIPS = {
  faces: { owes: ({ card }) => card.sure, said: ({ card, name }) => `${name} ${card.words.verb} ${card.words.owed}` },
  strip: { owes: (each) => each.passing > 0, said: (each) => `${each.name}: ${plural(each.passing, "unit")} pass` },
};

async function showSet(asked = set().first, item = null) {
  chosen.method = 0;
  await unpack(set().factual, Int16Array);
  at("method").replaceChildren(
    ...set().methods.map(({ label }, i) => make("option", { value: i }, i ? label : `${label} (support)`)),
  );
  for (const id of Object.keys(STRIPS)) at(id).replaceChildren(...set().queries.map((each, i) => face(id, each, i)));
  await turnTo(asked, item);
}

function face(id, each, place) {
  const { owes, said } = STRIPS[id];
  const shown = { class: owes(each) ? "owes" : "", "aria-label": said(each), title: each.name };
  return make(
    "div",
    { role: "option", tabindex: -1, ...shown, onclick: () => turnTo(place) },
    generated(place, each.name),
  );
}

async function turnTo(place, item = null) {
  chosen.query = clamp(place, 0, set().queries.length - 1);
  chosen.item = item;
  const mine = ++turn;
  const asked = query();
  await Promise.all([asked.first, asked.exact, asked.card.moved].map((packed) => unpack(packed, Int8Array)));
  if (mine !== turn) return;
  Object.keys(STRIPS).forEach(markFace);
  showCard();
  showQuery();
  showList();
  showItem();
}

function markFace(id) {
  const focused = at(id).contains(document.activeElement);
  [...at(id).children].forEach((element, i) => {
    element.setAttribute("aria-selected", String(i === chosen.query));
    element.tabIndex = i === chosen.query ? 0 : -1;
  });
  const here = at(id).children[chosen.query];
  reveal(here, at(id));
  if (focused) here.focus({ preventScroll: true });
}

function showQuery() {
  const asked = query();
  const { resolution } = asked;
  const told = [
    asked.passing
      ? `${passing(asked.passing, "unit")}, of ${data.units.toLocaleString("en")}.`
      : `No single unit of ${data.units.toLocaleString("en")} passes.`,
    resolution === 1 && "Its nearest unit, tested alone, matters.",
    resolution > 1 && `Its ${plural(resolution, "nearest unit")} matter together.`,
    resolution === -1 && "No neighbourhood of nearest units is found to matter.",
    asked.label != null && `Nearest label: ${asked.label}.`,
    asked.jvp_error != null && `The first order is off by ${number(100 * asked.jvp_error, 2)} %.`,
    asked.replay_error != null && `Inverted: its replay is off by ${number(asked.replay_error, 2)} at most.`,
    asked.pull_spread != null && `Pulls differ by ${number(100 * asked.pull_spread, 2)} % between inversions.`,
  ];
  const doubt = "Unlike the data: farther from every training picture than 99 % of real ones are.";
  at("query-said").replaceChildren(
    generated(chosen.query, asked.name),
    make("h3", {}, asked.name),
    ...told.filter(Boolean).map((words) => make("p", {}, words)),
    ...(asked.unlike ? [make("p", { class: "doubt" }, doubt)] : []),
  );
}

// ---- the address: #/set/query/item, so that a link leads here

function keepAddress() {
  const parts = [set().name, query().query, chosen.item].filter((part) => part != null);
  const wanted = `#/${parts.map(encodeURIComponent).join("/")}`;
  if (ready && location.hash !== wanted) history.replaceState(null, "", wanted);
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // that somebody has cut short
  }
}

function fromAddress() {
  if (!location.hash.startsWith("#/")) return null;
  const [name, asked, item = null] = location.hash.slice(2).split("/").map(decoded);
  const found = data.sets.findIndex((each) => each.name === name);
  if (found < 0) return null;
  chosen.set = found;
  if (item) chosen.listed = item.includes(":") ? "sets" : "units";
  const place = set().queries.findIndex((each) => String(each.query) === asked);
  return { place: place < 0 ? set().first : place, item };
}

// ---- keys and controls

function radios(id, options, key, change) {
  at(id).replaceChildren(
    ...Object.entries(options).map(([value, words]) =>
      make(
        "label",
        {},
        make("input", {
          type: "radio",
          name: id,
          value,
          checked: chosen[key] === value,
          onchange: () => {
            chosen[key] = value;
            change();
          },
        }),
        words,
      ),
    ),
  );
}

function along(event) {
  const step = { ArrowUp: -1, ArrowDown: 1, Home: -rows.length, End: rows.length }[event.key];
  if (!step || !rows.length) return;
  event.preventDefault();
  const place = rows.findIndex((each) => each.id === chosen.item);
  choose(rows[clamp(place + step, 0, rows.length - 1)].id);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input[type=search], select, textarea");
  const own = event.target.matches("input, select, .table"); // arrows are theirs
  const away = ["owing", "explorer"].every((id) => {
    const { top, bottom } = at(id).getBoundingClientRect();
    return bottom < 0 || top > innerHeight;
  });
  const step = { j: 1, k: -1, ...(own || away ? {} : { ArrowRight: 1, ArrowLeft: -1 }) }[event.key];
  if (!step || typing) return;
  event.preventDefault();
  if (away) at("explorer").scrollIntoView();
  turnTo(chosen.query + step);
}

function tabs() {
  radios("tabs", { units: "units", sets: "sets" }, "listed", () => {
    chosen.item = null;
    anew();
  });
}

function anew() {
  showList();
  showItem();
}

// What a control is set to is chosen, and shown.
function heed(id, event, key, value, show) {
  at(id).addEventListener(event, () => {
    chosen[key] = value(at(id));
    show();
  });
}

function controls() {
  const options = (names) => names.map((name, i) => make("option", { value: i }, name));
  const orders = Object.keys(ORDERS);
  tabs();
  radios("views", VIEWS, "view", showPictures);
  at("sort").replaceChildren(...options(orders));
  at("set").replaceChildren(...options(data.sets.map(({ name }) => name)));
  at("set").value = chosen.set;
  at("set-choice").hidden = data.sets.length < 2;
  at("colours-choice").hidden = channels !== 3;
  at("amplify").value = chosen.amplify;
  heed("set", "change", "set", (it) => +it.value, showSet);
  heed("method", "change", "method", (it) => +it.value, anew);
  heed("sort", "change", "sort", (it) => orders[it.value], anew);
  heed("filter", "input", "text", (it) => it.value, anew);
  heed("passes", "change", "passes", (it) => it.checked, anew);
  heed("amplify", "input", "amplify", (it) => +it.value, showPictures);
  heed("colours", "change", "colours", (it) => it.checked, showPictures);
  at("back").addEventListener("click", () => turnTo(chosen.query - 1));
  at("on").addEventListener("click", () => turnTo(chosen.query + 1));
  at("list").addEventListener("keydown", along);
  document.addEventListener("keydown", onKey);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => row() && showPictures());
  addEventListener("hashchange", async () => {
    const wanted = fromAddress();
    if (!wanted) return;
    at("set").value = chosen.set;
    tabs();
    await showSet(wanted.place, wanted.item);
    at("explorer").scrollIntoView();
  });
}

let ready = false; // an address that was come in by is kept until something is chosen
const wanted = fromAddress();
await unpack(data.pictures, Uint8Array, data.pictures.shape[2]);
controls();
at("faces").hidden = false;
await showSet(wanted?.place, wanted?.item);
at("explorer").hidden = false;
if (at("whose-list")) at("whose-list").open = false;
if (wanted) at("explorer").scrollIntoView();
ready = true;
