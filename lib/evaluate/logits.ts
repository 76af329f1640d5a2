// What logits say. In: rows of float32 logits. Out: log-probabilities, the likeliest token, divergence of two rows; float64 sums.

/** log sum exp, without overflow. `largest` is the row's maximum. */
function logSumExp(row: Float32Array, largest: number): number {
  let sum = 0;
  for (let i = 0; i < row.length; ++i) sum += Math.exp((row[i] as number) - largest);
  return largest + Math.log(sum);
}

/** The index of the largest; of equal ones the lowest. */
export function largestAt(row: Float32Array): number {
  let at = 0;
  for (let i = 1; i < row.length; ++i) if ((row[i] as number) > (row[at] as number)) at = i;
  return at;
}

/** Of token `id` under a row [vocabulary]. */
export function logProbability(row: Float32Array, id: number): { logProbability: number; isLargest: boolean } {
  const at = largestAt(row);
  return { logProbability: (row[id] as number) - logSumExp(row, row[at] as number), isLargest: at === id };
}

/** Of two rows [vocabulary]: whether they have the same likeliest token, and the Kullback-Leibler divergence KL(p || q) in nats. */
export function compareRows(p: Float32Array, q: Float32Array): { sameLargest: boolean; divergence: number } {
  const [atP, atQ] = [largestAt(p), largestAt(q)];
  const [sumP, sumQ] = [logSumExp(p, p[atP] as number), logSumExp(q, q[atQ] as number)];
  let divergence = 0;
  for (let i = 0; i < p.length; ++i) {
    const logP = (p[i] as number) - sumP;
    divergence += Math.exp(logP) * (logP - ((q[i] as number) - sumQ));
  }
  return { sameLargest: atP === atQ, divergence: Math.max(0, divergence) };
}
