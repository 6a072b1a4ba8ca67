function rowBrowser() {
  const box = byId("rows"), count = byId("rows-count"), columns = data.rows;
  const names = ["system", "benchmark", "metric", "reference"];
  const pick = Object.fromEntries(names.map((name) => [name, byId("rows-" + name)]));
  const body = byId("rows-body");
  const lines = drawn(body, byId("rows-more"), line);
  const kinds = { newly_right: "gained", newly_wrong: "lost", truncated_rate: "truncated",
    parse_rate: "unparsed", accuracy_contaminated: "contaminated",
    gain_contaminated: "contaminated" };
  const fits = {};
  let before = "";

  for (const name of names) {
    pick[name].append(new Option("all", ""));
    for (const { text, codes, label } of choices(columns[name])) {
      pick[name].append(new Option(label, pick[name].options.length - 1));
      (fits[name] ??= []).push({ text, codes });
    }
    pick[name].addEventListener("input", () => {
      refresh();
      const chosen = names.map((other) => [other, fits[other][pick[other].value]?.text]);
      history.replaceState(null, "", address("rows", Object.fromEntries(chosen)));
    });
  }

  // Every value, and before its runs every system that has several.
  function choices({ values, systems = {} }) {
    const means = Object.entries(systems).map(([text, codes]) =>
      ({ text, codes: new Set(codes), label: text + " (" + codes.length + " seeds)" }));
    const single = values.map((text, i) =>
      ({ text, codes: new Set([i]), label: text || "none" }));
    return [...means, ...single].sort((a, b) => Number(a.text > b.text) - Number(a.text < b.text));
  }

  const text = (name, i) => columns[name].values[columns[name].codes[i]];

  function refresh(trouble = "") {
    const wanted = names.filter((name) => pick[name].value)
      .map((name) => [columns[name].codes, fits[name][pick[name].value].codes]);
    const found = [];
    for (let i = 0; i < columns.n.length; i++) {
      if (wanted.every(([codes, fitting]) => fitting.has(codes[i]))) found.push(i);
    }
    count.textContent = trouble + say(found.length) + " of " + say(columns.n.length)
      + " rows of results.csv.";
    lines.reset(found);
  }

  // Items are shown by distilled run; SFT and teacher texts stand beside one.
  function itemsOf(i) {
    const system = text("system", i), benchmark = text("benchmark", i);
    const role = ["run", "sft", "teacher"].find((name) =>
      data.runs.some((run) => run[name] === system));
    if (!role || !items || (!data.counts[benchmark] && benchmark !== "average")) return "";
    const kind = role === "run" && kinds[text("metric", i)];
    return address("items", { run: data.runs.find((run) => run[role] === system).run,
      benchmark: data.counts[benchmark] ? benchmark : "", kind: kind in data.kinds ? kind : "" });
  }

  function line(i) {
    const row = element("tr");
    const title = element("th", "", text("system", i));
    title.scope = "row";
    row.append(title, ...names.slice(1).map((name) => element("td", "label", text(name, i))));
    for (const name of ["value", "low", "high", "n"]) {
      row.append(element("td", "", columns[name][i] ?? "–"));
    }
    const last = element("td", "label"), href = itemsOf(i);
    if (href) last.append(link(href, "items"));
    row.append(element("td", "label signature", text("signature", i)), last);
    return row;
  }

  function open(wanted) {
    const unknown = [];
    for (const name of names) {
      const place = fits[name].findIndex(({ text }) => text === (wanted.get(name) || null));
      pick[name].value = place < 0 ? "" : place;
      if (place < 0 && wanted.get(name)) unknown.push(name + " " + wanted.get(name));
    }
    refresh(unknown.length ? "Not here: " + unknown.join(", ") + ". " : "");
    if (!box.open) box.showModal();
  }

  function close() {
    before = location.hash;
    if (box.open) box.close();
  }

  byId("rows-close").addEventListener("click", () => box.close());
  box.addEventListener("close", () => {
    if (!location.hash.startsWith("#rows")) return;
    history.replaceState(null, "", location.href.split("#")[0] + before);
  });
  return { open, close };
}
