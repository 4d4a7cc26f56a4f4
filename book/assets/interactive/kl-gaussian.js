// KL(q ‖ p) of q = N(μ, σ²) from p = N(0, 1): two sliders, both densities, and the number by two independent routes.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const [LEFT, RIGHT, TOP, WIDTH, HEIGHT] = [-6, 6, 0.9, 420, 190]; // range of z, of the density, size in svg units

  const normal = (z, mu, sigma) => Math.exp(-0.5 * ((z - mu) / sigma) ** 2) / (sigma * Math.sqrt(2 * Math.PI));
  const logRatio = (z, mu, logSigma) => 0.5 * z * z - 0.5 * ((z - mu) / Math.exp(logSigma)) ** 2 - logSigma; // log q - log p

  const closedForm = (mu, logSigma) => 0.5 * (mu * mu + Math.exp(2 * logSigma) - 1) - logSigma;

  // Simpson's rule over ten standard deviations of q: it never sees the closed form.
  const integrated = (mu, logSigma, steps = 400) => {
    const sigma = Math.exp(logSigma);
    const h = (20 * sigma) / steps;
    let sum = 0;
    for (let i = 0; i <= steps; i++) {
      const z = mu - 10 * sigma + i * h;
      const weight = i === 0 || i === steps ? 1 : i % 2 ? 4 : 2;
      sum += weight * normal(z, mu, sigma) * logRatio(z, mu, logSigma);
    }
    return (sum * h) / 3;
  };

  const x = (z) => ((z - LEFT) / (RIGHT - LEFT)) * WIDTH;
  const y = (density) => HEIGHT - (density / TOP) * HEIGHT;
  const curve = (mu, sigma) =>
    Array.from({ length: 241 }, (_, i) => LEFT + (i * (RIGHT - LEFT)) / 240)
      .map((z, i) => `${i ? "L" : "M"}${x(z).toFixed(1)} ${y(normal(z, mu, sigma)).toFixed(1)}`)
      .join("");

  const svgElement = (parent, name, attributes, text = "") => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return parent.appendChild(element);
  };

  const slider = (parent, text, min, max, value) => {
    const label = parent.appendChild(document.createElement("label"));
    label.appendChild(document.createElement("span")).textContent = text;
    const input = label.appendChild(document.createElement("input"));
    Object.assign(input, { type: "range", min, max, step: 0.05, value });
    const output = label.appendChild(document.createElement("output"));
    return { input, output };
  };

  const draw = (box) => {
    const svg = svgElement(box, "svg", { viewBox: `0 -16 ${WIDTH} ${HEIGHT + 42}`, "aria-hidden": "true" });
    svg.style.color = "var(--pst-color-text-base)";
    svgElement(svg, "line", { x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT, stroke: "currentColor" });
    for (let z = LEFT + 1; z < RIGHT; z++) {
      svgElement(svg, "text", { x: x(z), y: HEIGHT + 18, "text-anchor": "middle", "font-size": 14, fill: "currentColor" }, z);
    }
    const line = { fill: "none", "stroke-width": 2.5 };
    svgElement(svg, "path", { ...line, d: curve(0, 1), stroke: "currentColor", "stroke-dasharray": "8 5" });
    const q = svgElement(svg, "path", { ...line, stroke: "var(--book-accent)" });
    svgElement(svg, "text", { x: 4, y: 4, "font-size": 15, fill: "currentColor" }, "p = N(0, 1), dashed");
    svgElement(svg, "text", { x: 4, y: 24, "font-size": 15, fill: "var(--book-accent)" }, "q = N(μ, σ²), solid");

    const mean = slider(box, "mean μ", -3, 3, 1.5);
    const width = slider(box, "log σ", -1.5, 1.5, -0.5);
    const readout = box.appendChild(document.createElement("p"));
    readout.className = "readout";
    readout.setAttribute("role", "status");

    const update = () => {
      const [mu, logSigma] = [mean.input.valueAsNumber, width.input.valueAsNumber];
      q.setAttribute("d", curve(mu, Math.exp(logSigma)));
      mean.output.value = mu.toFixed(2);
      width.output.value = logSigma.toFixed(2);
      readout.textContent =
        `σ = ${Math.exp(logSigma).toFixed(2)}. KL(q ‖ p) = ${closedForm(mu, logSigma).toFixed(4)} nats by the closed form, ` +
        `${integrated(mu, logSigma).toFixed(4)} by numerical integration.`;
    };
    mean.input.addEventListener("input", update);
    width.input.addEventListener("input", update);
    update();
  };

  document.querySelectorAll('[data-figure="kl-gaussian"]').forEach(draw);
})();
