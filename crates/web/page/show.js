// Numbers and plots as people read them.

const UNITS = ['bytes', 'kB', 'MB', 'GB', 'TB'];

export function bytes(n) {
  let unit = 0;
  while (n >= 999.5 && unit < UNITS.length - 1) {
    n /= 1000;
    unit++;
  }
  return `${unit === 0 || n >= 99.95 ? Math.round(n) : n.toFixed(1)} ${UNITS[unit]}`;
}

export function count(n, what) {
  return `${n.toLocaleString('en')} ${what}${n === 1 ? '' : 's'}`;
}

export function decibels(db) {
  return db === null ? '–' : `${db.toFixed(2)} dB`;
}

export function small(x) {
  return x === null ? '–' : x.toPrecision(3);
}

export function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** An element with a text, or with others in it. */
export function element(tag, { text, className, children = [], ...attributes } = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** A weight's name, which a line may break behind its dots. */
export function broken(name) {
  return name.split(/(?<=\.)/).flatMap((part) => [part, document.createElement('wbr')]);
}

const WIDTH = 320;
const HEIGHT = 130;
const FLOOR = HEIGHT - 18;

/** A weight's values before and after: two bars a bin, on a scale of square roots, so that few values are seen too. */
export function histogram(name, { min, max, before, after }) {
  const most = Math.max(...before, ...after, 1);
  const width = WIDTH / before.length;
  const bars = (values, kind, shift) =>
    values.map((n, bin) => {
      const height = n === 0 ? 0 : Math.max(1, Math.sqrt(n / most) * (FLOOR - 4));
      return svg('rect', { class: kind, x: bin * width + shift, y: FLOOR - height, width: width * 0.45, height });
    });
  const label = (x, anchor, value) =>
    svg('text', { x, y: HEIGHT - 4, 'text-anchor': anchor }, value === 0 ? '0' : value.toPrecision(2));
  const plot = svg('svg', {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    role: 'img',
    'aria-label': `Values of ${name} from ${min.toPrecision(3)} to ${max.toPrecision(3)}, before and after`,
  });
  plot.append(
    ...bars(before, 'before', 0),
    ...bars(after, 'after', width * 0.5),
    svg('line', { class: 'axis', x1: 0, x2: WIDTH, y1: FLOOR, y2: FLOOR }),
    label(0, 'start', min),
    label(WIDTH / 2, 'middle', (min + max) / 2),
    label(WIDTH, 'end', max),
  );
  return element('figure', { children: [element('figcaption', { children: broken(name) }), plot] });
}

function svg(tag, attributes, text) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
