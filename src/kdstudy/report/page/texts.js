function flag(overlap) {
  const words = { exact: "as it is", normalised: "but for case, spacing and punctuation",
    masked: "with other numbers" }[overlap];
  return words ? [element("p", "flag", "The training corpus holds this question " + words + ".")]
    : [];
}

function column(name, label, cell, other, student) {
  const node = element("div");
  node.append(element("h4", "", name), element("p", "", label));
  if (!cell) {
    node.append(element("p", "", "no text"));
    return node;
  }
  const [text, answer, outcome, tokens, quality, steps] = cell;
  const line = element("p");
  if (quality === null) {
    line.append(element("strong", outcome, outcome), ": " + (answer || "no answer found"));
  } else {
    line.append(element("strong", "", "ROUGE-L " + quality), " with the closest reference");
    if (outcome !== "rated") line.append(", ", element("strong", outcome, outcome));
  }
  line.append(", " + tokens + " tokens");
  const own = split(steps), theirs = split(other?.[5]);
  const marks = compared(own, theirs);
  node.append(line, written(text, marks, other?.[0], own.length + theirs.length > 0));
  if (student) {
    for (const step of compared(theirs, own)) {
      if (step.state === "only here") marks.push({ ...step, state: "missing" });
    }
  }
  if (marks.length) node.append(stepList(name, marks));
  return node;
}

function split(steps) {
  return steps ? steps.split(" ") : [];
}

// Each step as shared in order (longest common subsequence), in other order, or only here. Where
// one side has quantities only, results are compared: the package's own measure.
function compared(own, theirs) {
  const bare = [own, theirs].some((steps) => steps[0]?.startsWith("="));
  const key = (step) => (bare ? step.slice(step.indexOf("=") + 1) : step);
  const a = own.map(key), b = theirs.map(key);
  const best = Array.from({ length: a.length + 1 }, () => Array(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      best[i][j] = a[i] === b[j] ? best[i + 1][j + 1] + 1
        : Math.max(best[i + 1][j], best[i][j + 1]);
    }
  }
  const inOrder = new Set();
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) inOrder.add(i++), j++;
    else if (best[i + 1][j] >= best[i][j + 1]) i++;
    else j++;
  }
  return own.map((step, i) => ({ step, state:
    inOrder.has(i) ? "shared" : b.includes(a[i]) ? "other order" : "only here" }));
}

function stepList(name, marks) {
  const node = element("ul", "steps");
  node.setAttribute("aria-label", "Steps, " + name);
  for (const { step, state } of marks) {
    const row = element("li");
    const shown = step.startsWith("=") ? step.slice(1) : step.replace("=", " = ");
    row.append(element("code", state.replace(" ", "-"), shown), " " + state);
    node.append(row);
  }
  return node;
}

// The text, with the sentence marked that states a step: the first one with all its numbers.
// Where neither text has steps, sentences that are in both are marked instead.
function written(text, marks, other, hasSteps) {
  const node = element("div", "completion");
  node.dir = "auto";
  node.tabIndex = 0;
  const sentences = text.split(/(?<=[.!?]\s|\n)/);
  const found = sentences.map(() => []);
  const numbers = sentences.map((sentence) => new Set(
    (sentence.match(/\d[\d,]*(?:\.\d+)?|\.\d+/g) ?? []).map((n) => +n.replaceAll(",", ""))));
  for (const { step, state } of marks) {
    const wanted = step.match(/\d+(?:\.\d+)?/g).map(Number);
    const place = numbers.findIndex((known) => wanted.every((number) => known.has(number)));
    if (place >= 0) found[place].push(state);
  }
  const bare = (sentence) =>
    sentence.toLowerCase().replace(/\s+/g, " ").replace(/^[\s.]+|[\s.]+$/g, "");
  const known = new Set(hasSteps || !other ? [] : other.split(/(?<=[.!?]\s|\n)/).map(bare));
  sentences.forEach((sentence, i) => {
    const same = found[i].length ? found[i].every((state) => state === "shared")
      : bare(sentence) && known.has(bare(sentence));
    if (same) node.append(element("mark", "shared", sentence));
    else node.append(found[i].length ? element("mark", "own", sentence) : sentence);
  });
  return node;
}

function alike(pair, free, choice) {
  const table = element("table", "alike");
  const head = table.createTHead().insertRow();
  const ofTexts = choice ? [] : ["BLEU", "ROUGE-L", "Shared steps"];
  for (const name of ["How alike", "Same answer", ...ofTexts]) {
    const cell = element("th", "", name);
    cell.scope = "col";
    head.append(cell);
  }
  const body = table.createTBody();
  for (const [name, a, b] of [["Distilled and teacher", "run", "teacher"],
    ["SFT and teacher", "sft", "teacher"], ["Distilled and SFT", "run", "sft"]]) {
    const found = pair(a, b);
    if (!found) continue;
    const row = body.insertRow(), title = element("th", "", name);
    title.scope = "row";
    const [agree, ...numbers] = found, digits = [1, 1, 2];
    const cells = [free ? "–" : agree ? "yes" : "no",
      ...ofTexts.map((_, i) => numbers[i]?.toFixed(digits[i]) ?? "–")];
    row.append(title, ...cells.map((text) => element("td", "", text)));
  }
  const scroll = element("div", "scroll");
  scroll.append(table);
  return scroll;
}
