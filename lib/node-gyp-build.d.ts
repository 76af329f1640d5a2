declare module 'node-gyp-build' {
  /** Loads the addon of the package at `root`: build/Release first, then prebuilds. */
  export default function load(root: string): unknown;
}
