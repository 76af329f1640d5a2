// Loaded before every test file: property runs draw from the seed that CHAI_PROPERTY_SEED names, so that a run can be told again; else from a new one.
const fc = require('fast-check');

if (process.env.CHAI_PROPERTY_SEED) fc.configureGlobal({ seed: Number(process.env.CHAI_PROPERTY_SEED) });
