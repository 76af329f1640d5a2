// Where an error curve stops falling. In: errors for k = 1..H. Out: k.

/** How far below its peak the distance must fall before a peak counts, in steps of k: the sensitivity S of the paper, its default. */
const sensitivity = 1;

/**
 * The Kneedle rule (Satopaa, Albrecht, Irwin, Raghavan: Finding a "Kneedle" in a Haystack, ICDCS Workshops 2011, section III) for a falling,
 * convex curve: both axes scaled to [0, 1], the elbow is the first peak of how far the curve lies below the line between its ends from
 * which that distance falls by more than S mean steps before it peaks again; without such a peak, the highest. Nothing is smoothed: the
 * curve is a mean over samples. A curve that does not fall has its elbow at k = 1: one cluster says as much as H.
 */
export function elbow(errors: readonly number[]): number {
  const last = errors.length - 1;
  const [first, least] = [errors[0] as number, errors[last] as number];
  if (last === 0 || !(first - least > 1e-9 * Math.abs(first))) return 1;
  const below = errors.map((error, i) => 1 - (error - least) / (first - least) - i / last);
  const peaks = below.flatMap((value, i) =>
    i > 0 && i < last && value >= (below[i - 1] as number) && value > (below[i + 1] as number) ? [i] : [],
  );
  const highest = below.indexOf(Math.max(...below));
  const found = peaks.find((peak, p) => {
    const until = peaks[p + 1] ?? last + 1;
    const threshold = (below[peak] as number) - sensitivity / last;
    return below.slice(peak + 1, until).some((value) => value < threshold);
  });
  return (found ?? highest) + 1;
}
