// The page: classes with their examples, queries, and one question to the server at a time.

import { answers } from "./answers.js";
import { make, paper, writing } from "./tiles.js";

const $ = id => document.getElementById(id);
const about = await (await fetch("about")).json();
const images = about.kind === "images";
const classes = []; // {name: input, tiles, card}
let queries;
let asking = false, again = false, answered = false, timer = 0;

const tile = () => images ? paper(() => Number($("pen").firstElementChild.value), changed) : writing(about.most.characters, changed);

// Tiles in a box, of which one is always empty, and a way to put files into them.
function tilesIn(card, box, label, more = () => {}) {
  const tiles = [];
  const add = () => {
    const one = tile();
    more(one);
    tiles.push(one);
    box.append(one.element);
    return one;
  };
  const one = () => {
    if (!tiles.length || tiles.at(-1).value() !== null) add();
    tiles.forEach((t, i) => t.label(label(i + 1)));
  };
  const put = async files => {
    for (const file of files) {
      const free = tiles.find(t => t.value() === null) ?? add();
      await free.put(file);
    }
    changed();
  };
  const files = make("input", { type: "file", multiple: true, accept: images ? "image/*" : "text/plain" });
  files.addEventListener("change", async () => {
    await put(files.files);
    files.value = "";
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    card.addEventListener(kind, event => {
      event.preventDefault();
      card.classList.toggle("over", kind === "dragover");
      if (kind === "drop") put(event.dataTransfer.files);
    });
  }
  card.append(make("footer", {}, make("label", { className: "files" }, images ? "Image files…" : "Text files…", files)));
  one();
  return { tiles, one };
}

function addClass() {
  const name = make("input", { value: freeName(), maxLength: about.most.name });
  const remove = make("button", { type: "button", className: "small", textContent: "Remove" });
  const box = make("div", { className: "tiles" });
  const card = make("div", { className: "card" }, make("header", {}, name, remove), box);
  card.setAttribute("role", "group");
  const own = { name, card, ...tilesIn(card, box, n => `Example ${n} of ${name.value}`) };
  const named = () => {
    card.setAttribute("aria-label", `Class ${name.value}`);
    name.setAttribute("aria-label", "Name of the class");
    remove.setAttribute("aria-label", `Remove class ${name.value}`);
    own.tiles.forEach((t, i) => t.label(`Example ${i + 1} of ${name.value}`));
  };
  named();
  name.addEventListener("input", named);
  name.addEventListener("change", changed);
  remove.addEventListener("click", () => {
    classes.splice(classes.indexOf(own), 1);
    card.remove();
    changed();
    $("add").focus();
  });
  classes.push(own);
  $("classes").append(card);
  return own;
}

function freeName() {
  const taken = classes.map(one => one.name.value.trim());
  let n = 0;
  while (taken.includes(`class ${String.fromCharCode(97 + n)}`) && n < 25) n++;
  const letter = `class ${String.fromCharCode(97 + n)}`;
  return taken.includes(letter) ? `class ${taken.length + 1}` : letter;
}

// The classes that a query may be said to be of.
function refreshTruths() {
  for (const { truth } of queries.tiles) {
    const kept = classes.includes(truth.chosen) ? truth.chosen : null;
    truth.replaceChildren(make("option", { value: "", textContent: "class?" }),
      ...classes.map(one => make("option", { textContent: one.name.value })));
    truth.selectedIndex = 1 + classes.indexOf(kept);
    truth.chosen = kept;
  }
}

function changed() {
  for (const one of [...classes, queries]) one.one();
  refreshTruths();
  $("add").disabled = classes.length >= about.most.classes;
  $("answers").classList.add("old");
  clearTimeout(timer);
  if ($("auto").checked && queries.tiles.some(t => t.value() !== null)) timer = setTimeout(ask, 250);
}

function question() {
  const asked = { classes: [], queries: queries.tiles.filter(t => t.value() !== null) };
  const body = { classes: [], queries: [] };
  for (const { name, tiles } of classes) {
    const filled = tiles.filter(t => t.value() !== null);
    if (!filled.length) continue; // a class without an example is not there
    asked.classes.push(filled);
    body.classes.push({ name: name.value, examples: filled.map(t => t.value()) });
  }
  for (const one of asked.queries) {
    const named = one.truth.chosen?.name.value;
    body.queries.push({ example: one.value(), ...(named ? { class: named } : {}) });
  }
  const steps = $("steps").lastElementChild;
  if (about.inner_steps !== null && steps.value !== "") body.inner_steps = Number(steps.value);
  return { asked, text: JSON.stringify(body), body };
}

async function ask() {
  again = asking; // what changed meanwhile is asked next
  if (asking) return;
  const { asked, text, body } = question();
  const missing = body.classes.length < 2 ? "Give examples of two classes or more." : !body.queries.length ? "Give a query." : "";
  if (missing || text.length > about.most.bytes) {
    return tell("", missing || `More than ${about.most.bytes / 2 ** 20} MB; use fewer or smaller files.`);
  }
  asking = true;
  const started = performance.now();
  const n = asked.classes.reduce((sum, tiles) => sum + tiles.length, 0);
  const waiting = setTimeout(() => tell(`Getting ready for ${n} examples of ${asked.classes.length} classes, once …`), 700);
  try {
    const reply = await fetch("answer", { method: "POST", headers: { "Content-Type": "application/json" }, body: text });
    const said = await reply.json();
    if (!reply.ok) throw new Error(said.error);
    clearTimeout(waiting);
    $("answers").replaceChildren(...answers(asked, said, about.kind));
    $("answers").classList.remove("old");
    tell(`Adapted to ${n} examples and answered in ${Math.round(performance.now() - started)} ms.`);
    answered = true;
  } catch (error) {
    clearTimeout(waiting);
    const gone = error instanceof TypeError || error instanceof SyntaxError;
    tell("", gone ? "The server gave no answer; is metarun serve still running?" : error.message);
  }
  asking = false;
  if (again) ask();
}

function tell(status, error = "") {
  $("status").textContent = status;
  $("error").textContent = error;
  $("error").hidden = !error;
}

async function untilReady() {
  while (true) {
    const { ready, error } = await (await fetch("about")).json();
    if (asking || answered) return;
    if (ready) return tell(error ? "" : "Ready.", error ?? "");
    tell("Getting ready: the learner's programs are being compiled …");
    await new Promise(done => setTimeout(done, 300));
  }
}

document.title = `metarun: ${about.name}`;
$("name").textContent = about.name;
$("what").textContent = `${about.learner}, which takes ${about.says}. It has not seen your classes: it adapts to the examples that you give.`;
$("how").textContent = images
  ? "Draw black on white, or drop image files; they are made what the learner takes as the files of its training were " +
    "(of more than 500 KB they are made smaller first). “Nearest” is by the distance of the pixels as the learner takes them."
  : "Write an example into each box. “Nearest” is by the distance of the texts' vectors as the learner takes them.";
$("pen").hidden = !images;
$("steps").hidden = about.inner_steps === null;
Object.assign($("steps").lastElementChild, { value: about.inner_steps ?? "", max: about.most.inner_steps });

const box = make("div", { className: "tiles" });
const card = make("div", { className: "card" }, box);
$("queries").append(card);
queries = tilesIn(card, box, n => `Query ${n}`, one => {
  one.truth = make("select", {});
  one.truth.setAttribute("aria-label", "The query's class, if you know it");
  one.truth.addEventListener("change", () => {
    one.truth.chosen = classes[one.truth.selectedIndex - 1] ?? null;
    changed();
  });
  one.element.append(one.truth);
});
for (let n = 0; n < about.ways; n++) addClass();
refreshTruths();

$("add").addEventListener("click", () => {
  addClass().name.focus();
  changed();
});
$("go").addEventListener("click", ask);
$("steps").lastElementChild.addEventListener("change", changed);
// What is dropped beside the cards would replace the page.
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, event => event.preventDefault());
untilReady();
