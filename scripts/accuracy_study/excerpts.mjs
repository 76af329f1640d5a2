// Held-out text for the study. In: a corpus (plain, .gz, .xz; form feeds between books). Out: excerpts of whole paragraphs, spread evenly over it.
// usage: node scripts/accuracy_study/excerpts.mjs TEXT [COUNT = 24] [CHARACTERS = 15000] > held-out.txt
import { readText } from '../../dist/text_files.js';

/** `count` excerpts of at most so many characters, each within one document, form feeds between them. */
export function excerptsOf(text, count, characters) {
  const excerpts = Array.from({ length: count }, (_, i) => {
    const begin = text.indexOf('\n\n', Math.floor(((i + 0.5) * text.length) / count)) + 2;
    const [piece] = text.slice(begin, begin + characters).split('\f');
    return piece.length < characters ? piece.trimEnd() : piece.slice(0, piece.lastIndexOf('\n\n'));
  });
  return excerpts.join('\f');
}

/**
 * The same text as documents of their own, each behind a template: what a sequence of a service looks like whose requests all begin alike.
 * Whole words, at most `characters` of the text each; JSON lines.
 */
export function templated(text, template, characters) {
  const pieces = text.match(new RegExp(`\\S[^]{0,${characters - 2}}\\S(?!\\S)`, 'g')) ?? [];
  return pieces.map((piece) => `${JSON.stringify({ text: template + piece })}\n`).join('');
}

/** A text file as one string. */
export async function wholeText(file) {
  const pieces = [];
  for await (const piece of readText(file)) pieces.push(piece);
  return pieces.join('');
}

if (process.argv[1]?.endsWith('excerpts.mjs')) {
  const [file, count = '24', characters = '15000'] = process.argv.slice(2);
  process.stdout.write(excerptsOf(await wholeText(file), Number(count), Number(characters)));
}
