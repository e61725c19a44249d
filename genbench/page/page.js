"use strict";
// The page can be read without this: it adds sorting, filters, a choice of charts, copying and larger images.

for (const board of document.querySelectorAll("section.board")) {
  const table = board.querySelector("table.sortable");
  const body = table.tBodies[0];
  const rows = [...body.rows];

  const value = (row, column, kind) => {
    const cell = row.cells[column];
    return kind === "text" ? cell.textContent.trim() : cell.dataset.v === undefined ? NaN : Number(cell.dataset.v);
  };
  const sort = (head, direction) => {
    const column = head.cellIndex, kind = head.dataset.sort, sign = direction === "ascending" ? 1 : -1;
    rows.sort((first, second) => {
      const a = value(first, column, kind), b = value(second, column, kind);
      if (kind === "text") return sign * a.localeCompare(b, "en", { numeric: true });
      // Systems without a number stand last, whatever the direction.
      return Number.isNaN(a) - Number.isNaN(b) || (Number.isNaN(a) ? 0 : sign * (a - b));
    });
    body.append(...rows);
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
  };
  for (const head of board.querySelectorAll("th[data-sort]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(head.firstChild);
    head.prepend(button);
    button.addEventListener("click", () => {
      const first = head.dataset.better === "high" ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      sort(head, head.getAttribute("aria-sort") === first ? second : first);
    });
  }

  const tools = board.querySelector(".tools"), told = tools.querySelector("output");
  const search = tools.querySelector("input[type=search]"), most = tools.querySelector("input[type=number]");
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const limit = most && most.value !== "" ? Number(most.value) : Infinity;
    let left = 0;
    for (const row of rows) {
      const link = row.cells[0].querySelector("a");
      const name = `${row.cells[0].textContent} ${link.title}`.toLowerCase();
      const cost = row.dataset.evaluations === "" ? (limit === Infinity ? 0 : NaN) : Number(row.dataset.evaluations);
      row.hidden = !(words.every((word) => name.includes(word)) && cost <= limit);
      left += !row.hidden;
    }
    told.textContent = left === rows.length ? `${left} systems` : `${left} of ${rows.length} systems`;
  };
  tools.hidden = false;
  tools.addEventListener("input", filter);
  tools.addEventListener("change", filter);
  filter();

  const chooser = board.querySelector(".chooser"), select = chooser.querySelector("select");
  const panels = board.querySelectorAll("[data-panel]");
  const choose = () => panels.forEach((panel) => { panel.hidden = panel.dataset.panel !== select.value; });
  chooser.hidden = panels.length < 2;
  select.addEventListener("change", choose);
  choose();
}

const reveal = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
};
addEventListener("hashchange", reveal);
reveal();
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));

for (const command of document.querySelectorAll("pre.command")) {
  const text = command.textContent, button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy the command";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(command.firstChild.parentNode);
      button.textContent = "Selected; copy it by the keyboard";
    }
    setTimeout(() => { button.textContent = "Copy the command"; }, 2000);
  });
  command.after(button);
}

const dialog = document.querySelector("dialog");
if (dialog) {
  const large = dialog.querySelector("img"), words = dialog.querySelector("p");
  let open = null;
  const show = (button) => {
    open = button;
    const image = button.firstElementChild;
    large.src = image.src;
    large.alt = words.textContent = image.alt;
    if (!dialog.open) dialog.showModal();
  };
  for (const image of document.querySelectorAll(".shots img")) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-haspopup", "dialog");
    image.replaceWith(button);
    button.append(image);
    button.addEventListener("click", () => show(button));
  }
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => open && open.focus());
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    const cell = open.closest("td"), row = cell?.parentElement, all = [...open.closest(".shots").querySelectorAll("button")];
    // In a table to the neighbour in the row or in the column, elsewhere to the one before or after.
    const button = cell
      ? row.parentElement.rows[row.sectionRowIndex + step[0]]?.cells[cell.cellIndex + step[1]]?.querySelector("button")
      : all[all.indexOf(open) + step[0] + step[1]];
    if (button) show(button);
  });
}
