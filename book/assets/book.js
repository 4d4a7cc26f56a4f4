// Mends of the theme that CSS cannot make: names and roles for screen readers, and reachable scroll boxes.
document.addEventListener("DOMContentLoaded", () => {
  // A button whose visible text differs from its label confuses voice control: keep the text.
  for (const button of document.querySelectorAll(".search-button-field[aria-label]")) button.removeAttribute("aria-label");

  const sidebar = document.querySelector(".bd-sidebar-primary");
  if (sidebar && !sidebar.hasAttribute("role")) {
    sidebar.setAttribute("role", "navigation");
    sidebar.setAttribute("aria-label", "Book");
  }

  // What scrolls sideways must be reachable with the keyboard.
  const boxes = [...document.querySelectorAll("div.math .katex-display, .table-box, div.highlight pre, .cell_output pre")];
  const reach = () => {
    for (const box of boxes) {
      if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  reach();
  addEventListener("resize", reach);
});
