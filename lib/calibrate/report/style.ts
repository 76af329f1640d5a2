// The look of the report page: one style sheet, light and dark by the reader's wish, nothing fetched.
export const style = `
:root { color-scheme: light dark; --ink: #1b1f27; --muted: #5a6372; --page: #ffffff; --panel: #f6f7f9; --line: #dde2ea; --accent: #1d63d8; --warm: #c2480c; --soft: #1d63d81f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7eaf0; --muted: #9ba5b5; --page: #0f1216; --panel: #171b21; --line: #2a313b; --accent: #74a9ff; --warm: #ff9a5a; --soft: #74a9ff26; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 72px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 0 0 4px; }
p { margin: 0 0 14px; max-width: 76ch; }
.lead, .note { color: var(--muted); }
.note { font-size: 13.5px; }
section { margin-top: 44px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin: 24px 0; }
.tile { background: var(--panel); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.tile b { display: block; font-size: 25px; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: 13px; }
.grid-of { display: grid; grid-template-columns: repeat(auto-fill, minmax(232px, 1fr)); gap: 14px; }
.panel { background: var(--panel); border: 1px solid var(--line); border-radius: 10px; padding: 12px; margin: 0; overflow-x: auto; }
.wide { max-width: 800px; padding: 16px; }
@media (max-width: 640px) { .wide svg, .legend svg { min-width: 540px; } }
.legend { overflow-x: auto; margin: 6px 0 14px; }
svg { display: block; max-width: 100%; height: auto; }
svg text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink); }
svg .tick, svg .axis { fill: var(--muted); font-variant-numeric: tabular-nums; }
svg .tiny { font-size: 9px; }
svg .strong { fill: var(--ink); }
svg .name { font-size: 12.5px; font-weight: 600; }
svg .chosen { fill: var(--accent); font-size: 12px; font-weight: 600; }
.grid { stroke: var(--line); fill: none; }
.curve { stroke: var(--accent); stroke-width: 1.75; fill: none; stroke-linejoin: round; }
.curve.bold { stroke-width: 3; }
.curve.warm { stroke: var(--warm); }
.thin { stroke: var(--muted); stroke-opacity: 0.38; stroke-width: 1; fill: none; }
.drop { stroke: var(--accent); stroke-dasharray: 3 3; fill: none; }
.mark { fill: var(--accent); stroke: var(--panel); stroke-width: 1.5; }
.dot.warm { fill: var(--warm); }
.hollow { fill: var(--panel); stroke: var(--muted); stroke-width: 1.75; }
.point { fill: transparent; }
.bar, .size, .cell { fill: var(--accent); }
.cell.below { fill: var(--warm); }
.ghost { fill: var(--soft); }
.notch { stroke: var(--warm); stroke-width: 2; fill: none; }
.frame { stroke: var(--ink); stroke-width: 1.5; fill: none; vector-effect: non-scaling-stroke; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 18px 7px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--muted); font-weight: 500; font-size: 13px; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 150px; }
.scroll { overflow-x: auto; margin-bottom: 8px; }
@media print { section { break-inside: avoid; } }
`;
