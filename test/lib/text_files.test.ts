// Text files: plain and packed give the same lines and documents; long ones come in pieces; bad ones are refused by name and line.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import zlib from 'node:zlib';
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ChaiError, type ErrorCode } from '../../lib/errors';
import { readDocuments, readJsonLines, readLines } from '../../lib/text_files';

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'chai-llm-text-'));
process.once('exit', () => fs.rmSync(folder, { recursive: true, force: true }));

function file(name: string, content: string | Buffer): string {
  const made = path.join(folder, name);
  fs.writeFileSync(made, content);
  return made;
}

async function all<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const list: Item[] = [];
  for await (const item of items) list.push(item);
  return list;
}

async function refused(items: AsyncIterable<unknown>, words: RegExp, code: ErrorCode = 'OPTION_INVALID'): Promise<void> {
  const error = await all(items).then(
    () => undefined,
    (caught) => caught,
  );
  assert.instance(error, ChaiError);
  assert.is(error.code, code, error.message);
  assert.match(error.message, words);
}

// The two lines {"text":"été"} and {"text":"two"}, packed by xz 5.4.
const twoLinesXz = Buffer.from(
  '/Td6WFoAAATm1rRGAgAhARYAAAB0L+Wj4AAfAB5dAD2IioaUiBPg84l0aS8vxxnEB906o4VSwiXR5Ve2gAAAAMVMXvbJ5CgbAAE6IJpLQT4ftvN9AQAAAAAEWVo=',
  'base64',
);

test('lines of plain, .gz and .xz files are the same', async () => {
  const text = '{"text":"été"}\n{"text":"two"}\n';
  const names = [file('a.jsonl', text), file('a.jsonl.gz', zlib.gzipSync(text)), file('a.jsonl.xz', twoLinesXz)];
  for (const name of names) {
    assert.equal(await all(readLines(name)), [
      { text: '{"text":"été"}', line: 1 },
      { text: '{"text":"two"}', line: 2 },
    ]);
    assert.equal(
      (await all(readDocuments(name))).map(({ text: found, line }) => [found, line]),
      [
        ['été', 1],
        ['two', 2],
      ],
    );
  }
});

test('a character cut by the edge of a chunk stays whole; \\r\\n ends a line; the last line needs no end', async () => {
  const long = `${'a'.repeat(65535)}é\r\nsecond`; // files are read in chunks of 65536 bytes
  assert.equal(await all(readLines(file('cut.txt', long))), [
    { text: `${'a'.repeat(65535)}é`, line: 1 },
    { text: 'second', line: 2 },
  ]);
});

test('the pieces of a long text are the text, each but the first beginning with a blank line', async () => {
  const paragraph = 'word '.repeat(1000);
  const text = `${Array.from({ length: 700 }, (_, i) => `${i} ${paragraph}`).join('\n\n')}\n`;
  const pieces = await all(readDocuments(file('long.txt', text)));
  assert.is(pieces.map((piece) => piece.text).join(''), text);
  assert.ok(pieces.length >= 4);
  for (const [i, piece] of pieces.entries()) {
    assert.ok(piece.text.length <= 2 ** 20);
    if (i > 0) assert.match(piece.text, /^\n\n\d/);
    const before = pieces.slice(0, i).map((other) => other.text);
    assert.is(piece.line, before.join('').split('\n').length);
  }
});

test('a long text without blank lines, lines or spaces still comes in pieces that are the text', async () => {
  for (const unit of ['line\n', 'word ', 'x', '😀', 'a\n\n\n']) {
    const text = unit.repeat(Math.ceil(2_200_000 / unit.length));
    const pieces = await all(readDocuments(file('flat.txt', text)));
    assert.is(pieces.map((piece) => piece.text).join(''), text);
    assert.ok(pieces.every((piece) => piece.text.length <= 2 ** 20));
  }
});

test('form feeds part the documents of a plain text', async () => {
  const found = await all(readDocuments(file('books.txt', 'one\nmore\f\ntwo\f\f \n\fthree')));
  assert.equal(
    found.map(({ text, line }) => [text, line]),
    [
      ['one\nmore', 1],
      ['\ntwo', 2],
      ['three', 4],
    ],
  );
});

test('any lines come back as they were', async () => {
  const line = fc.string({ unit: 'grapheme' }).map((text) => text.replace(/[\r\n]/g, ''));
  await fc.assert(
    fc.asyncProperty(fc.array(line, { minLength: 1 }), async (lines) => {
      const text = lines.map((one) => `${one}\n`).join('');
      const found = await all(readLines(file('any.txt.gz', zlib.gzipSync(text))));
      assert.equal(
        found.map((one) => one.text),
        lines.map((one, i) => (i === 0 ? one.replace(/^\uFEFF/, '') : one)),
      );
    }),
    { numRuns: 50 },
  );
});

test('bad lines are named', async () => {
  await refused(readJsonLines(file('bad.jsonl', '{"a":1}\n\n{"a":')), /bad\.jsonl:3: is not valid JSON/);
  await refused(readDocuments(file('shape.jsonl', '{"text":"a"}\n{"txt":"b"}\n')), /shape\.jsonl:2: .*"text"/);
});

test('files that are missing, empty, folders, broken or not text are refused', async () => {
  await refused(readLines(path.join(folder, 'none.txt')), /there is no .*none\.txt/);
  await refused(readLines(folder), /not a regular file/);
  await refused(readLines(file('empty.txt', '')), /is empty/);
  await refused(readLines(file('latin.txt', Buffer.from([0x61, 0xe9, 0x0a]))), /latin\.txt is not UTF-8/);
  await refused(readLines(file('end.txt', Buffer.from([0x61, 0xc3]))), /end\.txt is not UTF-8/);
  await refused(readLines(file('short.gz', zlib.gzipSync('a'.repeat(1000)).subarray(0, 20))), /not a whole \.gz file/);
  await refused(readLines(file('short.xz', twoLinesXz.subarray(0, 60))), /not a whole \.xz file/);
  await refused(readLines(file('no.xz', 'no xz at all')), /not a whole \.xz file/);
});

test('after a broken .xz file, and after leaving one in the middle, another can be read', async () => {
  const whole = file('b.jsonl.xz', twoLinesXz);
  for await (const _ of readLines(whole)) break;
  await refused(readLines(file('broken.xz', twoLinesXz.subarray(0, 40))), /not a whole/);
  assert.is((await all(readLines(whole))).length, 2);
  const both = await Promise.all([all(readLines(whole)), all(readLines(whole))]);
  assert.equal(both[0], both[1]);
});

test('a signal ends the reading', async () => {
  const signal = AbortSignal.abort();
  await refused(readLines(file('a.txt', 'a\n'), { signal }), /aborted/, 'ABORTED');
});

test('the event loop turns while a small file unpacks to megabytes', async () => {
  // 8 MiB of lines of 63 letters, packed by xz 5.4 and, as that repeats itself, by zlib.
  const packed = zlib.inflateSync(
    Buffer.from(
      'eNr7a14VEcXAwJipdM+MiUGRkYOBgeEGv7Lw//8BjAWxDAbvQrj2f/pf//dDSZWYYvU30ewsO069jY5zhT5s+5p5YFb25bwn6n57Ij4utDueK/Fb2PqXeKzR' +
        '7J/NkZ/PW4d7/TucdrnJwuZHn8znTyvmfPDd6//ttUEClyZP3ntl51faO2PcimbeYrBbq3bAgaF/q2RUqOXDvYvswlLrPL5cKAlrnsOSd2bvzRdda6fr/td7' +
        'PUt217mN6hIxkW0v04Ii9r0sWxP55Gk0K8fP47fW/vkdpF1yVi5awenn3WDbH5opnNYNp7Vy7m+1/nBkr178Kn477zSnCcJ8/wUm/yisiPzBffb/VA03/pV/' +
        'au79nmWgF3agv/Vzc+OB1COqwT++TjQzZF264V3+wQJfd56LEwVXrU2gi9VBP2Y8mP9fgFGb4U1x8PK/+9bVGErN395rmFcwb7ly/BuN060Xp87oqtOa+Em9' +
        '9LvkAbYZvjP+3lh/dQL/gLp6AK0O5LffNBpgowFG2wBrYK5mYGWoqp1j5AAsG98Gr+1kYFzG1dDQwJJ2XqnMzoC3mwkozsAYGQUAzsadGw==',
      'base64',
    ),
  );
  let turns = 0;
  const timer = setInterval(() => ++turns, 1);
  let lines = 0;
  for await (const { text } of readLines(file('large.txt.xz', packed))) lines += Number(text.length === 63);
  clearInterval(timer);
  assert.is(lines, 131072);
  assert.ok(turns >= 5, `${turns} turns`);
});

test('a line may have 2^24 characters', async () => {
  const letters = 16 * 1024 * 1024;
  const [only, ...more] = await all(readLines(file('long.txt', `${'x'.repeat(letters)}\nend`)));
  assert.is(only?.text.length, letters);
  assert.equal(more, [{ text: 'end', line: 2 }]);
});

test.run();
