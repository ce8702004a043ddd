// Typeset the formulas of a page with the KaTeX that the site brings along.
document.addEventListener("DOMContentLoaded", () => {
  for (const formula of document.querySelectorAll(".arithmatex")) {
    const display = formula.tagName === "DIV"
    const text = formula.textContent.trim().replace(/^\\[([]|\\[)\]]$/g, "")
    katex.render(text, formula, { displayMode: display, throwOnError: false })
  }
})
