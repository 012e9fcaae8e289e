"use strict";
// Headings become buttons that sort; without this script the tables stand in their own order.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const collator = new Intl.Collator("en", { numeric: true });
  const compare = {
    number: (a, b) => a - b,
    text: (a, b) => collator.compare(a, b),
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    const order = compare[head.dataset.kind] ?? compare.text;
    const key = (row) => row.cells[column].dataset.value;
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const rows = [...body.rows];
      rows.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        // What has no value stands last either way.
        if (x === "" || y === "") return (x === "") - (y === "");
        return descending ? order(y, x) : order(x, y);
      });
      body.append(...rows);
    });
  });
}
