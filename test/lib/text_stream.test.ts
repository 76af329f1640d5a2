// Streaming text: right at character edges and at stop strings for any way of cutting it into tokens.
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { StopStrings, TokenDecoder } from '../../lib/text_stream';

/** A byte-level tokenizer in miniature: an id is a byte. */
const decode = (ids: number[]) => Buffer.from(ids).toString('utf8');

test('characters of several bytes come whole', () => {
  const decoder = new TokenDecoder(decode);
  const pieces = [...Buffer.from('a€😀b')].map((byte) => decoder.push(byte));
  assert.equal(pieces, ['a', '', '', '€', '', '', '', '😀', 'b']);
});

test('an unfinished character is shown as the decoder shows it, at the end only', () => {
  const decoder = new TokenDecoder(decode);
  assert.equal(
    [0xe2, 0x82].map((byte) => decoder.push(byte)),
    ['', ''],
  );
  assert.is(decoder.flush(), '�');
  assert.is(decoder.flush(), '');
});

test('bytes that are no character do not hold the text back for ever', () => {
  const decoder = new TokenDecoder(decode);
  let text = '';
  for (let i = 0; i < 100; ++i) text += decoder.push(0xff);
  assert.ok(text.length > 50);
});

test('pieces joined are the whole text, for any text and any context', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), fc.string({ unit: 'grapheme' }), (context, text) => {
      const decoder = new TokenDecoder(decode, [...Buffer.from(context)]);
      const pieces = [...Buffer.from(text)].map((byte) => decoder.push(byte));
      assert.is(pieces.join('') + decoder.flush(), text);
    }),
    { numRuns: 2000 },
  );
});

test('a decoder that drops the first space of a text keeps it inside a stream', () => {
  const words = ['▁Hello', '▁world', '!', '▁'];
  const sentencePiece = (ids: number[]) =>
    ids
      .map((id) => words[id])
      .join('')
      .replaceAll('▁', ' ')
      .replace(/^ /, '');
  const decoder = new TokenDecoder(sentencePiece, [0]);
  assert.equal(
    [1, 2, 3, 1].map((id) => decoder.push(id)),
    [' world', '!', ' ', ' world'],
  );
});

/** What a user means: the text up to the first place where a stop string is complete. */
function expected(text: string, stops: string[]): string {
  for (let end = 1; end <= text.length; ++end) {
    const found = stops.filter((stop) => text.slice(0, end).endsWith(stop));
    if (found.length > 0) return text.slice(0, end - Math.max(...found.map((stop) => stop.length)));
  }
  return text;
}

test('stop strings cut where they are complete, whatever the pieces', () => {
  const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 30 });
  const stop = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 5 });
  fc.assert(
    fc.property(letters, fc.array(stop, { maxLength: 3 }), (text, stops) => {
      const stream = new StopStrings(stops);
      let shown = '';
      for (const piece of text) {
        shown += stream.push(piece);
        assert.ok(text.startsWith(shown));
      }
      if (!stream.stopped) shown += stream.flush();
      assert.is(shown, expected(text, stops));
    }),
    { numRuns: 3000 },
  );
});

test('the pieces a text comes in make no difference', () => {
  const letters = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', '😀', 'é'), maxLength: 6 }), { maxLength: 12 });
  const stop = fc.string({ unit: fc.constantFrom('a', 'b', '😀', 'é'), minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(letters, fc.array(stop, { maxLength: 4 }), (pieces, stops) => {
      const stream = new StopStrings(stops);
      const shown = pieces.map((piece) => stream.push(piece)).join('') + stream.flush();
      assert.is(shown, expected(pieces.join(''), stops));
    }),
    { numRuns: 3000 },
  );
});

test('a decoder that changes its mind within a pair of surrogates does not cut the pair', () => {
  const decoder = new TokenDecoder((ids) => (ids.length === 1 ? '😀' : '😁'), [1]);
  assert.is(decoder.push(2), '😁');
});

test('text before the earliest stop string of one piece is shown', () => {
  const stream = new StopStrings(['two', 'one']);
  assert.is(stream.push('zero one two'), 'zero ');
  assert.ok(stream.stopped);
  assert.is(stream.push('more'), '');
});

test.run();
