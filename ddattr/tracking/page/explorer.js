// The explorer: what is chosen, and how it is drawn. All that it shows stands in the element #data; it asks nothing of
// anywhere else. Labels and names of files are put in as text, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const [channels, height, width] = data.shape;
const area = height * width;
const size = channels * area;
const LEVELS = 63; // of a displacement on either side of zero, as pictures.py has them
const MARGIN = 6; // the null's histogram goes from -6 to 6
const VIEWS = { factual: "factual", exact: "exact", first: "first order" };

const chosen = {
  set: 0, query: 0, item: null, // what is looked at: `item` is a unit's number or a set's name, as text
  listed: "units", method: null, sort: "score", text: "", passes: false, // how the list is made
  view: "factual", amplify: 2, colours: false, // how the pictures are drawn
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

function number(value) {
  if (value == null) return "–";
  const length = Math.abs(value);
  return length && (length < 0.001 || length >= 10000) ? value.toExponential(1) : String(+value.toPrecision(3));
}

const chance = (name, value) => (value != null && value < 0.001 && name === "q" ? "q < 0.001" : `${name} = ${number(value)}`);

// ---- pictures

async function unpacked(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const values = new Kind(await new Response(stream).arrayBuffer());
  for (let i = 0; i < values.length; i++) if (i % width) values[i] += values[i - 1]; // wraps around, as it was packed
  return values;
}

// Each thing is unpacked when it is first looked at, and kept.
async function unpack(stepped, Kind) {
  if (stepped) stepped.whole ??= await unpacked(stepped.values, Kind);
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
  return (i) => planes.map((plane) => byte(values[plane * area + i]));
}

// Brown where brighter, violet where darker, neutral at zero, as in figure 5; or grey and the difference in its colours.
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
function address(key, values) {
  if (!addresses.has(key)) {
    const canvas = make("canvas");
    paint(canvas, natural(values()));
    addresses.set(key, canvas.toDataURL());
  }
  return addresses.get(key);
}

function trained(place, words) {
  const shade = () => Float32Array.from(data.pictures.whole.subarray(place * size, (place + 1) * size), (v) => v / 127.5 - 1);
  const file = data.pictures.files[place];
  const alt = `training picture of ${words}${file ? `, ${file}` : ""}`;
  return make("img", { src: address(`training ${place}`, shade), alt, title: file || alt });
}

function generated(place, alt) {
  return make("img", { src: address(`${chosen.set} ${place}`, () => pixels(set().factual, place)), alt });
}

// One scale for all differences of the page: the largest of them, before it is amplified.
const steps = data.sets.flatMap((each) => each.queries.flatMap(({ first, exact }) => [first, exact]));
const largest = LEVELS * steps.reduce((most, stepped) => Math.max(most, ...(stepped ? stepped.steps : [])), 0);

// ---- the list

function listedRows() {
  const asked = query();
  const passes = (q) => q != null && q <= set().level;
  if (chosen.listed === "sets") {
    const { name, size: sizes, score, p, q, z, pictures } = asked.sets;
    return name.map((id, i) => ({
      id, name: id.replace(":", " "), text: plural(sizes[i], "unit"), score: score[i], p: p[i], q: q[i], z: z[i],
      pictures: pictures[i], passes: passes(q[i]),
    }));
  }
  const { key } = set().methods[chosen.method];
  return asked.units.map((unit, i) => ({
    id: String(unit), unit, place: i, ...data.named[unit], rank: asked.ranks[key][i], score: asked.scores[key][i],
    support: asked.scores[set().methods[0].key][i], p: asked.p[i], q: asked.q[i], z: asked.z[i],
    pictures: asked.pictures[i], null: asked.nulls[i], passes: passes(asked.q[i]),
  }));
}

function sorted(found) {
  const last = (value, sign) => (value == null ? Infinity : sign * value);
  const orders = {
    score: (each) => last(each.score, -1), z: (each) => last(each.z, -1),
    p: (each) => last(each.p, 1), q: (each) => last(each.q, 1),
  };
  if (chosen.sort === "name") return found.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  const value = orders[chosen.sort];
  return found.sort((a, b) => value(a) - value(b) || (b.score ?? 0) - (a.score ?? 0));
}

function matches(each) {
  const words = `${each.name} ${each.label ?? ""} ${each.pictures.map((place) => data.pictures.files[place] ?? "").join(" ")}`;
  return (!chosen.passes || each.passes) && words.toLowerCase().includes(chosen.text.toLowerCase());
}

function showList() {
  const all = sorted(listedRows());
  const found = all.filter(matches);
  const [passing, others] = [found.filter((each) => each.passes), found.filter((each) => !each.passes)];
  rows = [...passing, ...others];
  if (!row()) chosen.item = rows[0]?.id ?? null;
  const noun = chosen.listed === "units" ? "unit" : "set";
  const heading = `${plural(passing.length, noun)} pass${passing.length === 1 ? "es" : ""} the test (q ≤ ${set().level})`;
  const list = [make("h3", { class: "pass", role: "presentation" }, heading), ...passing.map(option)];
  if (!passing.length) list.push(make("p", { class: "empty", role: "presentation" }, nonePasses(all)));
  if (!chosen.passes) {
    list.push(make("h3", { class: "not", role: "presentation" }, "Do not pass the test: nothing may be claimed of these"));
    list.push(...others.map(option));
  }
  at("list").replaceChildren(...list);
  at("method-choice").hidden = noun === "set";
  at("listed").textContent = noun === "set"
    ? `A set is scored and tested as one. All neighbourhoods are listed; of other kinds those that pass, and the ${data.sizes.best} of largest z.`
    : `${all.length} of ${plural(data.units, "unit")} are listed: those that pass (${data.sizes.passing} at most), and the ` +
      `${data.sizes.best} best by each method. influence.parquet has all.`;
}

function nonePasses(all) {
  if (all.some((each) => each.passes)) return "None of those that pass is called so.";
  const { resolution } = query();
  const near = resolution > 0 ? ` Its ${plural(resolution, "nearest unit")} together do: see the sets.` : "";
  return chosen.listed === "units" ? `No single unit passes for this picture.${near}` : "No set passes for this picture.";
}

function option(each) {
  const label = chosen.listed === "units" && chosen.method ? "score" : chosen.listed === "units" ? "support" : "score";
  const said = [`${label} ${number(each.score)}`, chance("p", each.p), chance("q", each.q), `z = ${number(each.z)}`];
  const [first, ...more] = each.pictures.map((place) => trained(place, each.name));
  const here = each.id === chosen.item;
  return make(
    "div",
    {
      role: "option", id: `item ${each.id}`, class: `row ${each.passes ? "pass" : "not"}`, "aria-selected": String(here),
      tabindex: here ? 0 : -1, "data-item": each.id, onclick: () => choose(each.id, true),
    },
    first ?? make("span"),
    make(
      "div", {},
      make("div", { class: "name" }, each.name),
      make("div", { class: "numbers" }, each.rank && make("span", {}, `rank ${each.rank}`), each.text && make("span", {}, each.text),
        ...said.map((words) => make("span", {}, words))),
    ),
    more.length > 0 && make("div", { class: "thumbs" }, ...more),
  );
}

function choose(id, look = false) {
  chosen.item = id;
  for (const element of at("list").querySelectorAll("[role=option]")) {
    const here = element.dataset.item === id;
    element.setAttribute("aria-selected", String(here));
    element.tabIndex = here ? 0 : -1;
    if (here) element.focus({ preventScroll: look });
    if (here && !look) element.scrollIntoView({ block: "nearest" });
  }
  showItem();
  if (look && matchMedia("(max-width: 46rem)").matches) at("detail").scrollIntoView();
}

// ---- what is chosen of the list

function showItem() {
  const each = row();
  at("detail").hidden = !each;
  keepAddress();
  if (!each) return;
  const asked = query();
  at("detail-name").textContent = each.name;
  at("detail-verdict").replaceChildren(make(
    "span", { class: `verdict ${each.passes ? "pass" : "not"}` },
    `${each.passes ? "passes" : "does not pass"}, ${chance("q", each.q)}`,
  ));
  const method = set().methods[chosen.method];
  at("detail-rank").textContent = each.unit == null
    ? `${each.text}, scored and tested as one`
    : `rank ${each.rank} of ${data.units.toLocaleString("en")} by ${method.label}` +
      (chosen.method ? `, which scores it ${number(each.score)}` : "");
  const first = each.unit == null ? { score: number(each.score) } : { support: number(each.support) };
  const numbers = { ...first, p: number(each.p), q: number(each.q), z: number(each.z) };
  at("detail-numbers").replaceChildren(
    ...Object.entries(numbers).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
  );
  at("detail-pictures").replaceChildren(
    ...each.pictures.map((place) => trained(place, each.name)),
    make("p", {}, each.pictures.length > 1 ? `Of its training pictures, those nearest to ${asked.name}.` : "Its training picture."),
  );
  showPictures();
  showNull(each);
  const python = [`import ddattr`, `run = ddattr.load(${JSON.stringify(folder())})`];
  at("commands").replaceChildren(
    code("command", ["ddattr attribute", quoted(folder()), ...set().arguments.map(quoted)].join(" ")),
    code("Python", [...python, ...told(each)].join("\n")),
  );
}

function showPictures() {
  const each = row();
  const { first, exact, replayed } = query();
  const possible = each.unit != null && (first || replayed.length > 0);
  const place = each.unit == null ? -1 : replayed.indexOf(each.unit);
  const moved = { exact: place >= 0 ? pixels(exact, place) : null, first: first && possible ? pixels(first, each.place) : null };
  const given = "This picture was given, and not put on a noise tape: there is no counterfactual of it. queries.invert=true makes one.";
  at("compare").hidden = !possible;
  at("no-compare").textContent = possible ? "" : each.unit == null ? "A set is not taken out as a whole here." : given;
  at("replay").replaceChildren();
  if (!possible) return;
  const factual = pixels(set().factual, chosen.query);
  const shown = chosen.view === "factual" ? (moved.exact ? "exact" : "first") : chosen.view;
  const missing = !moved[shown];
  const pictured = chosen.view === "factual" ? factual : missing ? null : plus(factual, moved[shown]);
  const words = { exact: "exactly", first: "to first order" }[shown];
  at("picture").parentElement.parentElement.hidden = missing && chosen.view !== "factual";
  at("scale").hidden = missing;
  if (pictured) {
    paint(at("picture"), natural(pictured));
    at("picture-words").textContent = chosen.view === "factual" ? `${query().name}, as it is` : `without ${each.name}, ${words}`;
    at("picture").setAttribute("aria-label", at("picture-words").textContent);
  }
  if (missing) {
    const unit = shown === "exact" ? "It was not replayed without this unit. This does it:" : "This run has no Jacobian.";
    at("replay").replaceChildren(make("p", { class: "note" }, unit), ...(shown === "exact" ? [code("Python", replaying(each))] : []));
    return;
  }
  const limit = (largest || 1) / 2 ** chosen.amplify;
  paint(at("difference"), signed(moved[shown], limit));
  at("difference-words").textContent = `what changes without it, ${words}`;
  at("difference").setAttribute("aria-label", `${at("difference-words").textContent}: from ${number(-limit)} to ${number(limit)}`);
  showScale(limit);
}

function showScale(limit) {
  const [zero, more, less] = ["--zero", "--plus", "--minus"].map(themed);
  paint(at("legend"), (i) => (chosen.colours ? Array(3).fill(byte((i - 64) / 64)) : mixed((i - 64) / 64, zero, more, less)), 129, 1);
  at("legend").setAttribute("aria-label", `Scale from ${number(-limit)}, darker without it, to ${number(limit)}, brighter`);
  at("darker").textContent = `−${number(limit)} darker`;
  at("brighter").textContent = `brighter +${number(limit)}`;
  at("amplified").textContent = `× ${number(2 ** chosen.amplify)}`;
}

function showNull(each) {
  if (each.unit == null) {
    at("null").replaceChildren(make("p", {}, "Sets have no stored null: their p is in sets.parquet."));
    return;
  }
  if (!each.null) {
    const none = set().queries.every(({ nulls }) => nulls.every((counts) => !counts));
    const why = none ? "This run has kept no nulls (nulls.parquet)." : "Its null was not kept: nulls.parquet has the units that pass, and those of largest support.";
    at("null").replaceChildren(make("p", {}, why));
    return;
  }
  const total = each.null.reduce((sum, count) => sum + count, 0);
  const words =
    `How ${total.toLocaleString("en")} codewords that no unit holds score here, in standard deviations; coloured: as much as ` +
    `this unit or more. ${chance("p", each.p)}.`;
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
  const svg = draw("svg", { viewBox: `0 -14 ${across} ${down + 30}`, role: "img", "aria-label": `${words} z = ${number(z)}` });
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
    svg.append(draw("text", { x: x(tick), y: down + 12, "text-anchor": tick === -6 ? "start" : tick === 6 ? "end" : "middle" }, tick));
  }
  if (z != null) {
    const anchor = z > 3 ? "end" : z < -3 ? "start" : "middle";
    svg.append(draw("line", { x1: x(z), x2: x(z), y1: 0, y2: down, class: "mark" }));
    svg.append(draw("text", { x: x(z), y: -4, class: "here", "text-anchor": anchor }, `z = ${number(z)}${z > MARGIN ? " →" : ""}`));
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

function told(each) {
  const asked = query().query;
  return each.unit == null
    ? [`run.best(query=${asked})`]
    : [`run.best(query=${asked})`, `run.influence.query("query == ${asked} and unit == ${each.unit}")`];
}

function replaying(each) {
  return [
    "import ddattr, torch",
    `run = ddattr.load(${JSON.stringify(folder())})`,
    `codewords = run.codebook.codewords(torch.tensor([${each.unit}]))`,
    `without = ddattr.counterfactual(run.ensemble, codewords, [${query().query}], run.reverse, run.data.shape)`,
  ].join("\n");
}

function code(label, text) {
  const said = make("code", {}, text);
  const button = make("button", { type: "button", "aria-label": `Copy the ${label}`, onclick: () => copy(said, button) }, "copy");
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

async function showSet(asked = 0, item = null) {
  chosen.method = 0;
  await unpack(set().factual, Int16Array);
  at("method").replaceChildren(...set().methods.map(({ label }, i) => make("option", { value: i }, i ? label : `${label} (support)`)));
  at("strip").replaceChildren(...set().queries.map((each, i) => make(
    "div",
    {
      role: "option", class: each.passing ? "owes" : "", tabindex: -1, onclick: () => turnTo(i),
      "aria-label": `${each.name}: ${plural(each.passing, "unit")} pass`, title: each.name,
    },
    generated(i, each.name),
  )));
  await turnTo(asked, item);
}

async function turnTo(place, item = null) {
  const focused = at("strip").contains(document.activeElement);
  chosen.query = clamp(place, 0, set().queries.length - 1);
  chosen.item = item;
  const mine = ++turn;
  const asked = query();
  await Promise.all([unpack(asked.first, Int8Array), unpack(asked.exact, Int8Array)]);
  if (mine !== turn) return;
  [...at("strip").children].forEach((element, i) => {
    const here = i === chosen.query;
    element.setAttribute("aria-selected", String(here));
    element.tabIndex = here ? 0 : -1;
    if (here && focused) element.focus({ preventScroll: true });
    if (here) at("strip").scrollTop = clamp(at("strip").scrollTop, element.offsetTop + element.offsetHeight - at("strip").offsetTop - at("strip").clientHeight, element.offsetTop - at("strip").offsetTop);
  });
  showQuery();
  showList();
  showItem();
}

function showQuery() {
  const asked = query();
  const line = (words, kind) => make("p", { class: kind }, words);
  const told = [line(asked.passing ? `${plural(asked.passing, "unit")} of ${data.units.toLocaleString("en")} pass` + (asked.passing === 1 ? "es." : ".")
    : `No single unit of ${data.units.toLocaleString("en")} passes.`)];
  if (asked.resolution > 0) told.push(line(`The ${plural(asked.resolution, "nearest unit")} matter${asked.resolution === 1 ? "s" : " together"}.`));
  if (asked.resolution === -1) told.push(line("No neighbourhood of nearest units is found to matter."));
  if (asked.label != null) told.push(line(`Nearest label: ${asked.label}.`));
  if (asked.jvp_error != null) told.push(line(`The first order is off by ${number(100 * asked.jvp_error)} %.`));
  if (asked.unlike) told.push(line("Unlike the data: farther from every training picture than 99 % of real ones are.", "doubt"));
  const button = (words, by, name) => make("button", { type: "button", "aria-label": name, onclick: () => turnTo(chosen.query + by) }, words);
  at("query").replaceChildren(
    generated(chosen.query, asked.name), make("h3", {}, asked.name), ...told,
    make("div", { class: "turn" }, button("←", -1, "Previous query"), button("→", 1, "Next query")),
  );
}

// ---- the address: #/set/query/item, so that a link leads here

function keepAddress() {
  const parts = [set().name, query().query, chosen.item].filter((part) => part != null);
  const wanted = `#/${parts.map(encodeURIComponent).join("/")}`;
  if (ready && location.hash !== wanted) history.replaceState(null, "", wanted);
}

function fromAddress() {
  if (!location.hash.startsWith("#/")) return null;
  const [name, asked, item = null] = location.hash.slice(2).split("/").map(decodeURIComponent);
  const found = data.sets.findIndex((each) => each.name === name);
  if (found < 0) return null;
  chosen.set = found;
  if (item) chosen.listed = item.includes(":") ? "sets" : "units";
  const place = set().queries.findIndex((each) => String(each.query) === asked);
  return { place: Math.max(0, place), item };
}

// ---- keys and controls

function radios(id, options, key, change) {
  at(id).replaceChildren(...Object.entries(options).map(([value, words]) => make(
    "label", {},
    make("input", {
      type: "radio", name: id, value, checked: chosen[key] === value,
      onchange: () => { chosen[key] = value; change(); },
    }),
    words,
  )));
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
  const { top, bottom } = at("explorer").getBoundingClientRect();
  const away = bottom < 0 || top > innerHeight;
  const step = { j: 1, k: -1, ...(own || away ? {} : { ArrowRight: 1, ArrowLeft: -1 }) }[event.key];
  if (!step || typing) return;
  event.preventDefault();
  if (away) at("explorer").scrollIntoView();
  turnTo(chosen.query + step);
}

function controls() {
  const anew = () => { showList(); showItem(); };
  const orders = { score: "score", p: "p", q: "q", z: "z", name: "name" };
  radios("tabs", { units: "units", sets: "sets" }, "listed", () => { chosen.item = null; anew(); });
  radios("views", VIEWS, "view", showPictures);
  at("sort").replaceChildren(...Object.entries(orders).map(([value, words]) => make("option", { value }, words)));
  at("set").replaceChildren(...data.sets.map(({ name }, i) => make("option", { value: i }, name)));
  at("set").value = chosen.set;
  at("set-choice").hidden = data.sets.length < 2;
  at("colours-choice").hidden = channels !== 3;
  at("amplify").value = chosen.amplify;
  at("set").addEventListener("change", () => { chosen.set = +at("set").value; showSet(); });
  at("method").addEventListener("change", () => { chosen.method = +at("method").value; anew(); });
  at("sort").addEventListener("change", () => { chosen.sort = at("sort").value; anew(); });
  at("filter").addEventListener("input", () => { chosen.text = at("filter").value; anew(); });
  at("passes").addEventListener("change", () => { chosen.passes = at("passes").checked; anew(); });
  at("amplify").addEventListener("input", () => { chosen.amplify = +at("amplify").value; showPictures(); });
  at("colours").addEventListener("change", () => { chosen.colours = at("colours").checked; showPictures(); });
  at("list").addEventListener("keydown", along);
  document.addEventListener("keydown", onKey);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => row() && showPictures());
  addEventListener("hashchange", async () => {
    const wanted = fromAddress();
    if (!wanted) return;
    at("set").value = chosen.set;
    radios("tabs", { units: "units", sets: "sets" }, "listed", () => { chosen.item = null; anew(); });
    await showSet(wanted.place, wanted.item);
  });
}

let ready = false; // an address that was come in by is kept until something is chosen
const wanted = fromAddress();
await unpack(data.pictures, Uint8Array);
controls();
await showSet(wanted?.place ?? 0, wanted?.item ?? null);
at("explorer").hidden = false;
if (at("whose-list")) at("whose-list").open = false;
if (wanted) at("explorer").scrollIntoView();
ready = true;
