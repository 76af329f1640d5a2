// Types of node-gyp-build, which has none. Only what addon_loader.ts calls.
declare module 'node-gyp-build' {
  /** Finds the addon of the package at `root`: build/Release first, then prebuilds; throws when there is none. */
  function load(root: string): unknown;
  namespace load {
    function resolve(root: string): string;
  }
  export default load;
}
