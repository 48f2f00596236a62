document.documentElement.lang = "en";
// On paper nothing can be opened.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll(".artifacts details")) details.open = true;
});
// pytest-html's rows and column headers answer to the mouse alone.
const reachable = () => {
  for (const cell of document.querySelectorAll(".col-result, .sortable")) {
    if (cell.tabIndex !== 0) {
      cell.tabIndex = 0;
      cell.setAttribute("role", "button");
    }
  }
};
addEventListener("DOMContentLoaded", () => {
  reachable();
  new MutationObserver(reachable).observe(document.body, { childList: true, subtree: true });
});
addEventListener("keydown", (event) => {
  if (["Enter", " "].includes(event.key) && event.target.matches(".col-result, .sortable")) {
    event.preventDefault();
    event.target.click();
  }
});
