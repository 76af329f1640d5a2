// Runs inside the browser: what a page's texts and colours look like from there. Out: `probes`, for tests to ask.
const probes = {
  /** Texts of pictures that stick out of them, and pairs of texts that lie upon each other. */
  clashes() {
    const clashes = [];
    for (const svg of document.querySelectorAll('svg')) {
      const frame = svg.getBoundingClientRect();
      if (frame.width < 30 || frame.height < 20) clashes.push(`a picture of ${frame.width} x ${frame.height}: ${svg.ariaLabel}`);
      const texts = [...svg.querySelectorAll('text')].map((text) => ({ text: text.textContent, box: text.getBoundingClientRect() }));
      texts.forEach(({ text, box }, i) => {
        if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
          clashes.push(`"${text}" sticks out of: ${svg.ariaLabel}`);
        for (const other of texts.slice(i + 1)) {
          const wide = Math.min(box.right, other.box.right) - Math.max(box.left, other.box.left);
          const high = Math.min(box.bottom, other.box.bottom) - Math.max(box.top, other.box.top);
          if (wide > 1 && high > 4) clashes.push(`"${text}" and "${other.text}" in: ${svg.ariaLabel}`);
        }
      });
    }
    if (document.documentElement.scrollWidth > document.documentElement.clientWidth) clashes.push('the page is wider than the window');
    return clashes;
  },

  /** Least contrast of texts to what is behind them (WCAG 2: relative luminance), and the page's background. */
  contrast() {
    const channels = (colour) => (colour.match(/[\d.]+/g) ?? []).map(Number);
    const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    const luminance = (colour) => {
      const [r, g, b] = channels(colour).map((value) => linear(value / 255));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
      const { backgroundColor } = getComputedStyle(element);
      return (channels(backgroundColor)[3] ?? 1) > 0.5 ? backgroundColor : behind(element.parentElement);
    };
    const result = { least: 99, text: '', background: getComputedStyle(document.body).backgroundColor };
    for (const element of document.querySelectorAll('h1, h2, p, td, th, .tile b, .tile span, svg text')) {
      const style = getComputedStyle(element);
      const [a, b] = [luminance(element.closest('svg') ? style.fill : style.color), luminance(behind(element))];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (ratio < result.least) Object.assign(result, { least: ratio, text: element.textContent });
    }
    return result;
  },

  /** [columns x rows x (red, green, blue)] of a picture, base64 of a PNG. */
  async pixels(png) {
    const image = new Image();
    image.src = `data:image/png;base64,${png}`;
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height).getContext('2d');
    canvas.drawImage(image, 0, 0);
    const { data } = canvas.getImageData(0, 0, image.width, image.height);
    return { width: image.width, values: Array.from(data).filter((_, i) => i % 4 < 3) };
  },
};
