// What a model read, in parts: [before, body, after]; null where nobody kept it.
function promptOf(item, system) {
  const frame = data.framed?.[item.benchmark]?.[system] ?? -1;
  if (frame < 0) return null;
  const [number, body] = item.asked?.[frame] ?? [frame, item.question.trim()];
  const [before, after] = data.frames[number];
  return [before, body, after];
}

// Every prompt that the systems of an item read, folded: one where all read the same.
function promptsOf(item, ids) {
  const found = new Map();
  for (const [name, role] of [["teacher", "teacher"], ["student", "sft"], ["student", "run"]]) {
    const parts = item.texts[ids[role]] && promptOf(item, ids[role]);
    if (!parts) continue;
    const whole = parts.join("");
    if (!found.has(whole)) found.set(whole, { parts, names: new Set() });
    found.get(whole).names.add(name);
  }
  const scored = item.options ? ", behind which each option is scored" : ", as the model reads it";
  return [...found.values()].map(({ parts, names }) => {
    const whose = found.size > 1 ? "The " + [...names].join("'s and the ") + "'s prompt"
      : "The prompt";
    const node = element("details", "prompt"), text = element("div", "completion");
    const [before, body, after] = parts;
    text.append(element("span", "frame", before), body, element("span", "frame", after));
    text.dir = "auto";
    text.tabIndex = 0;
    node.open = Boolean(promptsOf.open); // as on the item before
    node.addEventListener("toggle", () => { promptsOf.open = node.open; });
    node.append(element("summary", "", whose + scored), text);
    return node;
  });
}

function isChoice(cell) {
  return cell?.length > 6;
}

// The options of an item, a row each: what is scored, and each system's probability of it.
function optionTable(item, columns) {
  const node = element("table", "options"), head = node.createTHead().insertRow();
  const there = columns.filter(([, , cell]) => isChoice(cell));
  const first = element("th", "", "Option");
  first.scope = "col";
  head.append(first, ...there.map(([name, label, [, answer, outcome]]) => {
    const cell = element("th", "", name);
    cell.scope = "col";
    cell.append(element("span", "system", label), element("strong", outcome, outcome));
    return cell;
  }));
  const [, , , , , , , right] = there[0][2], body = node.createTBody();
  const labels = item.options?.map(([label]) => label);
  there[0][2][6].forEach((_, place) => {
    const row = body.insertRow(), title = element("th", place === right ? "right" : "");
    title.scope = "row";
    title.append(...optionText(item.options?.[place], place, place === right));
    row.append(title, ...there.map(([, , cell]) => share(cell, place, labels)));
  });
  return node;
}

function optionText(option, place, right) {
  const [label, given, scored] = option ?? [String(place + 1), "", ""];
  const mark = element("span", "label", label), found = [mark];
  if (given) found.push(element("span", "frame", given));
  found.push(element("span", "", given ? scored : scored.trimStart()));
  if (right) found.push(element("span", "gold", "gold"));
  found.forEach((part) => { part.dir = "auto"; });
  return found;
}

function share([, answer, outcome, , , , shares], place, labels) {
  const chosen = labels?.includes(answer) ? labels[place] === answer
    : place === shares.indexOf(Math.max(...shares));
  const node = element("td", "share" + (chosen ? " chosen " + outcome : ""));
  const bar = element("span", "bar"), fill = element("span");
  fill.style.width = 100 * shares[place] + "%";
  bar.append(fill);
  const percent = (100 * shares[place]).toFixed(1) + "%";
  node.append(element("span", "", percent), bar);
  if (chosen) node.append(element("span", "spoken", "chosen, " + outcome));
  return node;
}
