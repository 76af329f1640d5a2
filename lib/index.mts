// The same surface for ES modules: one instance, since everything comes from the CommonJS build.
export * from './index.js';
