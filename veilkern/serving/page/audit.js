/** audit.json as tables: the verdict first, every attack beside chance. docs/audit.md says what the figures are. */

import { count, el, svg } from "./dom.js";

const LEVELS = {
  "gives photos away": { level: "bad", mark: "✗" },
  "a trace": { level: "watch", mark: "▲" },
  "nothing found": { level: "good", mark: "✓" },
  "too few people to tell": { level: "untried", mark: "–" },
  "not possible": { level: "untried", mark: "–" },
};
const levelOf = (verdict) => LEVELS[verdict] ?? { level: "untried", mark: "–" };
const known = (value) => typeof value === "number" && Number.isFinite(value);
const number = (value, digits) => (known(value) ? value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1") : "–");

function cell(figure, digits, className = "") {
  const { value, low, high } = figure ?? {};
  const interval = known(low) ? el("span", { className: "interval" }, `${number(low, digits)} to ${number(high, digits)}`) : null;
  return el("td", { className }, number(value, digits), interval);
}

/** An AUC drawn: its interval, its value, and 0.5, which is chance. */
function auc(figure) {
  const { value, low, high } = figure ?? {};
  const td = cell(figure, 2, "auc");
  if (!known(value) || !known(low)) return td;
  const x = (share) => (3 + 78 * Math.min(1, Math.max(0, share))).toFixed(1);
  const beside = low > 0.5 || high < 0.5 ? "beside" : "at";
  const parts = [
    svg("line", { class: "track", x1: x(0), x2: x(1), y1: 6, y2: 6 }),
    svg("line", { class: "chance", x1: x(0.5), x2: x(0.5), y1: 0, y2: 12 }),
    svg("line", { class: "span", x1: x(low), x2: x(high), y1: 6, y2: 6 }),
    svg("circle", { cx: x(value), cy: 6, r: 2.6 }),
  ];
  td.append(svg("svg", { class: `gauge ${beside}`, viewBox: "0 0 84 12", width: 84, height: 12, "aria-hidden": "true" }, ...parts));
  return td;
}

const head = (text, more = {}) => el("th", { scope: "col", ...more }, text);

function table(label, groups, columns, rows) {
  const top = groups.length ? el("tr", {}, groups) : null;
  const line = el("tr", {}, columns);
  const node = el("table", {}, el("caption", { className: "unseen" }, label), el("thead", {}, top, line), el("tbody", {}, rows));
  return el("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": label }, node);
}

/** How many attacks came out how, the worst first; and the worst in words. */
function verdicts(attacks) {
  const order = Object.keys(LEVELS);
  const groups = order.map((verdict) => [verdict, attacks.filter((row) => row.verdict === verdict)]).filter(([, rows]) => rows.length);
  const chips = groups.map(([verdict, rows]) => {
    const { level, mark } = levelOf(verdict);
    return el("li", { className: `chip ${level}` }, el("b", {}, `${mark} ${rows.length}`), ` ${verdict}`);
  });
  const [worst, rows] = groups[0] ?? ["", []];
  const names = rows.map((row) => row.title).join(", ");
  const { level } = levelOf(worst);
  const words = {
    bad: `${count(rows.length, "attack")} of ${attacks.length} ${rows.length === 1 ? "gives" : "give"} photos away: ${names}.`,
    watch: `No attack gives photos away; ${count(rows.length, "attack")} of ${attacks.length} ${rows.length === 1 ? "leaves" : "leave"} a trace: ${names}.`,
    good: `None of ${count(attacks.length, "attack")} finds anything.`,
    untried: "There is too little to tell.",
  };
  return [el("p", { className: `verdict ${level}` }, words[level]), el("ul", { className: "chips" }, chips)];
}

const LIKENESS = [
  ["SSIM", "ssim", 3],
  ["contour", "contour", 3],
  ["|contour|", "contour_size", 3],
];

function attackRow(row, networks) {
  const title = el("th", { scope: "row" }, row.title, el("span", { className: "knows" }, `The attacker has ${row.knows}.`));
  if (row.not_possible) {
    const wide = { className: "words untried", colSpan: 1 + 3 * LIKENESS.length + 2 * networks.length };
    return el("tr", {}, title, el("td", wide, `Not possible: ${row.not_possible}`));
  }
  const { level, mark } = levelOf(row.verdict);
  const evidence = row.evidence?.length ? el("span", { className: "interval" }, row.evidence.join("; ")) : null;
  const cells = LIKENESS.flatMap(([, name, digits]) => [
    cell(row[name], digits, "own"),
    cell(row[`${name}_others`], digits, "chance"),
    auc(row[`auc_${name}`]),
  ]);
  const found = networks.flatMap((name) => [cell(row.rank1?.[name], 3, "own"), el("td", { className: "chance" }, number(row.chance?.[name], 3))]);
  return el("tr", {}, title, el("td", { className: `words ${level}` }, el("b", {}, `${mark} ${row.verdict}`), evidence), cells, found);
}

function attacks(rows) {
  const networks = [...new Set(rows.flatMap((row) => Object.keys(row.rank1 ?? {})))];
  const groups = [
    el("td", { colSpan: 2 }),
    ...LIKENESS.map(([title]) => head(title, { scope: "colgroup", colSpan: 3 })),
    ...networks.map((name) => head(`found by ${name}`, { scope: "colgroup", colSpan: 2 })),
  ];
  const columns = [
    head("attack"), head("verdict", { className: "words" }),
    ...LIKENESS.flatMap(() => [head("own photo", { className: "own" }), head("by chance"), head("AUC")]),
    ...networks.flatMap(() => [head("rank-1", { className: "own" }), head("by chance")]),
  ];
  return table("Attacks", groups, columns, rows.map((row) => attackRow(row, networks)));
}

const FOUND = [
  ["clean", "clean photos"], ["protected", "protected photos"],
  ["impostor_as_veil", "another’s photo, taken for the veil’s person"], ["impostor_as_photo", "… for the person in it"],
];

function recognition(networks) {
  const rows = networks.map((one) => el(
    "tr", {},
    el("th", { scope: "row" }, one.network, one.crafted_for ? el("span", { className: "knows" }, "The veils were crafted for it.") : null),
    FOUND.map(([name]) => cell(one[name], 3)),
    el("td", { className: "chance" }, number(one.chance, 4)),
  ));
  return table("Recognition", [], [head("network"), ...FOUND.map(([, title]) => head(title)), head("by chance")], rows);
}

/** Digits enough to see by how much a value misses what it should be. */
function noise(test) {
  if (!known(test.z)) return [number(test.value, 3), number(test.expected, 3)];
  const size = Math.abs(test.expected ?? 0);
  const digits = size < 2 ? 6 : size < 10 ? 4 : 2;
  return [number(test.value, digits), number(test.expected, digits)];
}

function fieldTests(tests) {
  const rows = tests.map((test) => {
    const [value, expected] = noise(test);
    const { level, mark } = LEVELS[test.fine ? "nothing found" : "gives photos away"];
    const z = known(test.z) ? `${test.z >= 0 ? "+" : ""}${test.z.toFixed(1)}` : "";
    return el(
      "tr", {}, el("th", { scope: "row" }, test.title), el("td", {}, value), el("td", { className: "chance" }, expected), el("td", {}, z),
      el("td", { className: `words ${level}` }, `${mark} ${test.fine ? "fine" : "not fine"}`), el("td", { className: "words soft" }, test.note),
    );
  });
  const heads = ["test", "value", "ideal", "z"].map((text) => head(text));
  heads.push(...["verdict", "note"].map((text) => head(text, { className: "words" })));
  return table("Tests of image encryption", [], heads, rows);
}

const part = (title, words, body) => [el("h3", {}, title), body, el("p", { className: "soft" }, words)];

/** The whole report as nodes. */
export function report(audit) {
  const { attacks: rows = [], recognition: networks = [], field_tests: tests = [], notices = [], bank = {} } = audit;
  const setting = bank.levels ? `${bank.levels} levels` : known(bank.blend) ? `alpha ${(bank.blend / 255).toFixed(2)}` : "";
  const about = [`${audit.people} people`, `${audit.photos} photos`, `${audit.gallery} gallery photos`, `${audit.scheme}, ${setting}`];
  return [
    ...verdicts(rows),
    el("p", { className: "soft" }, `${about.join(" · ")} · veilkern ${audit.veilkern}`),
    ...notices.map((notice) => el("p", { className: "notice" }, notice)),
    ...part(
      "What each attack gets",
      "Likeness of each output to the photo it was made from, beside photos of other people: chance. AUC says how often the own photo is more " +
        "alike; the line is 0.5, which is chance. Below each figure its interval, 95 %.",
      attacks(rows),
    ),
    ...(networks.length ? part(
      "What recognition means",
      "Rank-1. The veil says who it is, whoever is in the photo: whoever holds it passes as that person at that network.",
      recognition(networks),
    ) : []),
    ...(tests.length ? part(
      "The sealed photo as noise",
      "z says by how many standard deviations of ideal noise a value misses the ideal; up to 3.3 is fine.",
      fieldTests(tests),
    ) : []),
  ];
}
