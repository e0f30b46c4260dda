// What the learner answered, as elements. All names are put in as text.

import { make } from "./tiles.js";

const percent = (p, digits = 1) => p === null || p === undefined ? "–" : `${(100 * p).toFixed(digits)} %`;
const steps = n => `${n} inner step${n === 1 ? "" : "s"}`;

// asked: {queries: [tile], classes: [[tile]]}, whose pictures are shown; said: what the server answered.
export function answers(asked, said, kind) {
  const cards = said.queries.map((query, i) => card(asked, said, query, i, kind));
  return said.accuracy ? [accuracy(said), ...cards] : cards;
}

function card(asked, said, query, i, kind) {
  const p = query.probabilities;
  const first = p === null ? -1 : p.indexOf(Math.max(...p));
  const verdict = make("strong", { textContent: first < 0 ? "no finite answer" : said.classes[first] });
  const bars = make("ol", { className: "bars" }, ...said.classes.map((name, c) => {
    const filled = make("span");
    filled.style.width = `${100 * (p?.[c] ?? 0)}%`;
    return make("li", { className: c === first ? "first" : "" },
      make("span", { className: "label", textContent: name, title: name }),
      make("span", { className: "bar" }, filled),
      make("span", { className: "number", textContent: percent(p?.[c]) }));
  }));
  const alike = make("ol", { className: "alike" }, ...query.nearest.map(one => make("li", { className: kind },
    asked.classes[one.class][one.example].picture(),
    make("div", { textContent: `${said.classes[one.class]}, ${one.distance.toFixed(2)}` }))));
  const parts = [
    make("div", { className: "verdict" }, asked.queries[i].picture(),
      make("span", {}, make("span", { className: "quote", textContent: `Query ${i + 1}` }), verdict)),
    bars,
  ];
  if (query.by_inner_steps) {
    parts.push(make("h3", { textContent: "By inner step" }), table(
      ["steps", ...said.classes],
      query.by_inner_steps.map((row, s) => [
        `${said.inner_steps.shown[s]}`, ...said.classes.map((_, c) => percent(row?.[c], 0)),
      ]),
      query.by_inner_steps.map(row => row ? 1 + row.indexOf(Math.max(...row)) : -1),
    ));
  }
  parts.push(make("h3", { textContent: "Nearest examples, by distance" }), alike);
  return make("article", { className: "card answer" }, ...parts);
}

function table(head, rows, most) {
  const cells = (tag, row, m) => row.map((text, i) => make(i ? tag : "th", {
    textContent: text, title: text, className: i === m ? "most" : "", scope: i && tag === "td" ? "" : tag === "th" ? "col" : "row",
  }));
  return make("div", { className: "wide", tabIndex: 0 }, make("table", {},
    make("thead", {}, make("tr", {}, ...cells("th", head))),
    make("tbody", {}, ...rows.map((row, r) => make("tr", {}, ...cells("td", row, most[r]))))));
}

function accuracy(said) {
  const { queries, accuracy: found, by_inner_steps: all } = said.accuracy;
  const of = `Accuracy on ${queries} quer${queries === 1 ? "y" : "ies"} whose class you told: ${percent(found, 0)}`;
  const rest = all ? all.map((a, s) => `${percent(a, 0)} after ${steps(said.inner_steps.shown[s])}`).join(", ") : "";
  return make("p", { className: "whole", textContent: rest ? `${of} (${rest})` : of });
}
