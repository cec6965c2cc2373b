// The data is in scripts below data/, which call explorer(name, text). Whatever is in it is shown as text, never as HTML.
const HEIGHT = 76; // pixels of a line of the list, as in page.css
const RIGHT = 0.5; // the least score of a right answer
const byId = (id) => document.getElementById(id);
const list = byId("list"), rows = byId("rows"), phone = matchMedia("(max-width: 48rem)");

// ---- data ----

const own = { createScriptURL: (url) => url }; // of names that are made here only
const policy = window.trustedTypes ? trustedTypes.createPolicy("explorer", own) : own;
const chunks = new Map(), waiting = new Map();

function load(name) {
  if (!chunks.has(name))
    chunks.set(name, new Promise((done, fail) => {
      const script = document.createElement("script");
      waiting.set(name, done);
      script.src = policy.createScriptURL("data/" + name + ".js");
      script.onload = () => script.remove();
      script.onerror = () => {
        script.remove();
        chunks.delete(name);
        fail(new Error("data/" + name + ".js cannot be loaded; build the site again"));
      };
      document.head.append(script);
    }));
  return chunks.get(name);
}

window.explorer = (name, text) => waiting.get(name)?.(JSON.parse(text));

let site = { tasks: [], lines: [], problems: [], questions: 0 };
const all = []; // lines of the list, as far as they are loaded
const places = new Map(); // by question's id
let words = []; // of each question, once somebody has searched
let shown = []; // places of the questions that pass the filters
let selected = null; // place of a question

async function start() {
  site = await load("site");
  setUp();
  for (let number = 0; number * site.listed < site.questions; number++) {
    for (const row of await load("list-" + number)) {
      places.set(row.id, all.length);
      all.push(row);
    }
    chunks.delete("list-" + number);
    offer("language", (row) => [row.language]);
    offer("split", (row) => row.splits);
    filter();
  }
  open_(asked());
}

// ---- elements ----

function make(kind, className, ...children) { // children: elements, or texts, which stay texts
  const element = document.createElement(kind);
  element.className = className;
  element.append(...children);
  return element;
}

function text(kind, className, content) { // in whatever direction its own letters run
  const element = make(kind, className, content);
  element.dir = "auto";
  return element;
}

function picture(file, className, alt) {
  const image = make("img", className);
  image.loading = "lazy";
  image.alt = alt;
  image.src = "images/" + file;
  return image;
}

function option(label, value) {
  const element = make("option", "", label);
  element.value = value;
  return element;
}

// ---- filters ----

function setUp() {
  byId("task").append(option("all", ""), ...site.tasks.map((task, place) => option(task.name, place)));
  const metrics = [...new Set(site.tasks.flatMap((task) => task.metrics))]; // first, null for one that cannot judge
  byId("metric").append(option("each benchmark's own metric", ""), ...metrics.filter(Boolean).map((name) => option(name, name)));
  byId("metric").parentElement.hidden = metrics.length < 2;
  const free = site.lines.every((line) => line.is_control);
  site.lines.forEach((line, place) => {
    const box = make("input", "");
    box.type = "checkbox";
    box.value = place;
    box.checked = free || !line.is_control; // those that were given the right items, or wrong ones, on purpose
    byId("lines").append(make("label", "", box, " ", text("span", "", line.name), " ", make("span", "quiet", line.more)));
  });
  setUpVerdicts();
  if (site.problems.length) {
    byId("notes").hidden = false;
    byId("notes").firstElementChild.textContent = site.problems.length + " results are not shown";
    byId("notes").lastElementChild.append(...site.problems.map((problem) => make("li", "", problem)));
  }
}

function setUpVerdicts() {
  const before = byId("verdict").value;
  const lines = counted();
  const groups = [["only", "only "], ["right", "at least "], ["wrong", "not "]].map(([kind, label]) => {
    const group = make("optgroup", "", ...lines.map((line) => option(label + title(line), kind + ":" + line)));
    group.label = { only: "right by one alone", right: "right by one", wrong: "wrong by one" }[kind];
    return group;
  });
  const general = [["any", ""], ["by all", "all"], ["by none", "none"], ["by some, not all", "some"]];
  byId("verdict").replaceChildren(...general.map(([label, value]) => option(label, value)), ...groups);
  byId("verdict").value = before;
  if (byId("verdict").selectedIndex < 0) byId("verdict").value = "";
}

const title = (line) => site.lines[line].name + (site.lines[line].more ? " (" + site.lines[line].more + ")" : "");
const counted = () => [...byId("lines").querySelectorAll("input:checked")].map((box) => Number(box.value));

function offer(id, valuesOf) {
  const select = byId(id), before = select.value;
  const values = new Set(all.flatMap(valuesOf));
  values.delete("");
  select.replaceChildren(option("all", ""), ...[...values].sort().map((value) => option(value, value)));
  select.value = before;
  select.parentElement.hidden = !values.size;
}

function isRight(row, line) { // null where the line gave no answer, or none that can be right or wrong
  const scores = row.scores[line], metric = byId("metric").value;
  const place = metric ? site.tasks[row.task].metrics.indexOf(metric) : 0;
  const score = scores?.[place] ?? null;
  return score === null ? null : score >= RIGHT;
}

function passes(row, lines, verdict) {
  if (!verdict) return true;
  const [kind, line] = verdict.split(":");
  if (kind === "right") return isRight(row, Number(line)) === true;
  if (kind === "wrong") return isRight(row, Number(line)) === false;
  const known = lines.map((place) => isRight(row, place)).filter((right) => right !== null);
  const right = known.filter(Boolean).length;
  if (kind === "only") return right === 1 && isRight(row, Number(line)) === true;
  if (kind === "all") return known.length > 0 && right === known.length;
  if (kind === "none") return known.length > 0 && right === 0;
  return right > 0 && right < known.length;
}

function filter() {
  const lines = counted(), verdict = byId("verdict").value;
  const [task, language, split] = ["task", "language", "split"].map((id) => byId(id).value);
  const searched = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  shown = [];
  all.forEach((row, place) => {
    if (task !== "" && row.task !== Number(task)) return;
    if (language && row.language !== language) return;
    if (split && !row.splits.includes(split)) return;
    if (!passes(row, lines, verdict)) return;
    if (searched.length && !searched.every((word) => words[place]?.includes(word))) return;
    shown.push(place);
  });
  const loading = all.length < site.questions || (searched.length && words.length < site.questions);
  const count = shown.length.toLocaleString("en") + " of " + site.questions.toLocaleString("en") + " questions";
  byId("count").textContent = count + (loading ? ", loading" : "");
  rows.style.height = shown.length * HEIGHT + "px";
  redraw();
}

async function search() {
  const next = Math.floor(words.length / site.listed);
  for (let number = next; byId("search").value.trim() && words.length < site.questions; number++) {
    const found = await load("words-" + number);
    chunks.delete("words-" + number);
    // Another search may be going on.
    if (words.length === number * site.listed) words = words.concat(found.map((text) => text.toLowerCase()));
    if (number % 4 === 0) filter();
  }
  filter();
}

// ---- the list, of which only what is in sight is drawn ----

const drawn = new Map(); // by place in shown

function redraw() {
  for (const row of drawn.values()) row.remove();
  drawn.clear();
  draw();
}

function draw() {
  const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 4);
  const last = Math.min(shown.length, first + Math.ceil(list.clientHeight / HEIGHT) + 9);
  for (const [place, row] of drawn)
    if (place < first || place >= last) {
      row.remove();
      drawn.delete(place);
    }
  for (let place = first; place < last; place++)
    if (!drawn.has(place)) {
      drawn.set(place, listed(place));
      rows.append(drawn.get(place));
    }
  const active = shown.indexOf(selected);
  for (const [place, row] of drawn) row.setAttribute("aria-selected", place === active);
  if (drawn.has(active)) list.setAttribute("aria-activedescendant", "option-" + active);
  else list.removeAttribute("aria-activedescendant");
}

function listed(place) {
  const row = all[shown[place]];
  const verdicts = counted().map((line) => [line, isRight(row, line)]).filter(([, right]) => right !== null);
  const marks = verdicts.map(([, right]) => make("span", "verdict " + (right ? "right" : "wrong"), right ? "✓" : "✗"));
  const spoken = verdicts.map(([line, right]) => title(line) + (right ? " right" : " wrong")).join(", ");
  const below = make("span", "below quiet", ...marks.flatMap((mark) => [mark, " "]), text("bdi", "", row.gold), " · ", row.id);
  const thumb = row.image ? picture(row.image, "thumb", "") : make("span", "thumb");
  const element = make("div", "", thumb, text("span", "label", row.label), below);
  element.id = "option-" + place;
  element.setAttribute("role", "option");
  element.setAttribute("aria-label", [row.label, "answer " + row.gold, row.id, spoken].filter(Boolean).join("; "));
  element.setAttribute("aria-setsize", shown.length);
  element.setAttribute("aria-posinset", place + 1);
  element.style.transform = "translateY(" + place * HEIGHT + "px)";
  element.addEventListener("click", () => choose(shown[place], true));
  return element;
}

function choose(place, opens) {
  const hash = "#" + all[place].id.split("/").map(encodeURIComponent).join("/");
  if (opens) location.hash = hash; // the way back leads to what was open before
  else history.replaceState(null, "", hash);
  open_(all[place].id, opens);
}

function move(key) {
  const page = Math.max(1, Math.floor(list.clientHeight / HEIGHT) - 1), here = shown.indexOf(selected);
  const to = { ArrowDown: here + 1, ArrowUp: here - 1, PageDown: here + page, PageUp: here - page, Home: 0, End: shown.length - 1 }[key];
  const place = Math.min(Math.max(to, 0), shown.length - 1);
  if (place >= 0) choose(shown[place], false);
}

function reveal() {
  const top = shown.indexOf(selected) * HEIGHT;
  if (top < 0) return;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT - list.clientHeight;
}

// ---- a question ----

function asked() {
  try {
    return location.hash.slice(1).split("/").map(decodeURIComponent).join("/");
  } catch {
    return "";
  }
}

async function open_(id, opens = Boolean(id)) {
  const place = places.get(id);
  if (opens || !id) document.body.classList.toggle("open", Boolean(id));
  if (!id) return;
  if (place === undefined) {
    byId("content").replaceChildren(text("p", "", "There is no question " + id + " here."));
    return;
  }
  selected = place;
  reveal();
  draw();
  const details = await load("details-" + Math.floor(place / site.opened));
  if (selected === place) show(details[place % site.opened]);
}

function show(details) {
  const row = all[places.get(details.id)], lines = new Set(counted());
  const link = make("a", "", details.id);
  link.href = "#" + details.id.split("/").map(encodeURIComponent).join("/");
  const about = [row.language, ...row.splits].filter(Boolean).join(" · ");
  const pictures = details.images.map((file) => picture(file, "", "picture of the question"));
  const parts = [
    make("p", "quiet", link, about ? " · " + about : ""),
    text("h2", "answer", details.question || row.label),
    make("div", "pictures", ...pictures),
  ];
  if (details.lacking) parts.push(make("p", "quiet", "No picture: " + details.lacking + "."));
  parts.push(make("h2", "", "Right answer"), text("p", "text answer", details.target));
  if (details.answers.length) parts.push(text("p", "text quiet", "also: " + details.answers.join(" · ")));
  const methods = details.methods.filter((method) => lines.has(method.line));
  parts.push(make("h2", "", "Answers"), make("div", "cards", ...methods.map((method) => card(method, row))));
  const hidden = details.methods.filter((method) => !lines.has(method.line)).map((method) => title(method.line));
  if (hidden.length) parts.push(text("p", "quiet", "Not ticked under Methods: " + hidden.join("; ") + "."));
  for (const found of details.retrieved) parts.push(...retrieved(found, lines));
  if (details.prompt) parts.push(make("h2", "", "Prompt"), box(details.prompt));
  byId("content").replaceChildren(...parts);
  byId("detail").scrollTop = 0;
}

function box(content) {
  const element = text("div", "text box", content);
  element.tabIndex = 0; // so that keys can scroll it
  return element;
}

function facts(pairs) {
  return make("dl", "", ...pairs.flatMap(([name, value]) => [make("dt", "", name), text("dd", "", value)]));
}

function card(method, row) {
  const right = isRight(row, method.line), line = site.lines[method.line];
  const verdict = right === null ? "" : make("span", "verdict " + (right ? "right" : "wrong"), right ? "✓ right " : "✗ wrong ");
  const parts = [make("h3", "", verdict, text("bdi", "", line.name)), text("p", "quiet", line.more), box(method.output)];
  const told = [];
  if (method.scored) told.push(["scored", method.scored]);
  if (method.extracted) told.push(["extracted", method.extracted]);
  parts.push(facts([...told, ...method.scores, ...method.costs]));
  if (method.lacking) parts.push(make("p", "quiet", method.lacking));
  if (method.prompt) parts.push(make("details", "", make("summary", "", "asked in other words"), box(method.prompt)));
  return make("section", "card", ...parts);
}

function retrieved(found, lines) {
  const given = found.lines.filter((line) => lines.has(line)).map(title);
  if (!given.length) return [];
  const parts = [make("h2", "", "Retrieved"), text("p", "quiet", "given to " + given.join("; "))];
  if (found.lacking) parts.push(text("p", "quiet", "Only their ids are known: " + found.lacking + "."));
  parts.push(make("div", "cards", ...found.items.map((item, place) => knowledge(item, place + 1))));
  return parts;
}

function knowledge(item, rank) {
  const score = item.score ? ", score " + item.score : "";
  const parts = [text("h3", "", rank + ". " + (item.title || item.id))];
  parts.push(text("p", "quiet", item.id + score + (item.right ? " · the right item" : "")));
  if (item.image) parts.push(picture(item.image, "", "picture of the item"));
  if (item.text) parts.push(box(item.text));
  if (item.lacking) parts.push(text("p", "quiet", item.lacking));
  return make("section", item.right ? "card gold" : "card", ...parts);
}

// ---- mouse and keys ----

function report(error) {
  byId("count").textContent = String(error.message ?? error);
}

function refresh() {
  list.scrollTop = 0;
  filter();
  if (selected !== null) open_(all[selected].id, false);
}

let typed = 0;
byId("search").addEventListener("input", () => {
  clearTimeout(typed);
  list.scrollTop = 0;
  typed = setTimeout(() => search().catch(report), 150);
});
for (const id of ["task", "language", "split", "verdict"]) byId(id).addEventListener("change", refresh);
byId("metric").addEventListener("change", refresh);
byId("lines").addEventListener("change", () => {
  setUpVerdicts();
  refresh();
});
list.addEventListener("scroll", draw, { passive: true });
new ResizeObserver(draw).observe(list);
list.addEventListener("keydown", (event) => {
  if (["ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End"].includes(event.key)) move(event.key);
  else if (event.key === "Enter" && selected !== null) {
    choose(selected, true);
    byId("detail").focus();
  } else return;
  event.preventDefault();
});
byId("detail").addEventListener("keydown", (event) => {
  if (event.key === "Escape") back();
});
function back() {
  if (phone.matches) history.replaceState(null, "", location.pathname + location.search);
  document.body.classList.remove("open");
  list.focus();
  draw();
}
byId("back").addEventListener("click", back);
addEventListener("hashchange", () => open_(asked()).catch(report));
addEventListener("unhandledrejection", (event) => report(event.reason));
start().catch(report);
