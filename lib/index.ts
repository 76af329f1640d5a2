// The public surface: exports only.

export type {
  BudgetSearch,
  CalibrateOptions,
  Calibration,
  CalibrationBudget,
  CalibrationProgress,
  LayerCalibration,
  MeasuredLoss,
  StaticRule,
} from './calibrate/types';
export type { ModelConfig } from './config';
export { ChaiError, type ErrorCode } from './errors';
export type {
  AttentionResult,
  EvaluateOptions,
  Evaluation,
  EvaluationProgress,
  EvaluationTask,
  Figure,
  FigureName,
  ItemDetail,
  TaskName,
  TaskResult,
} from './evaluate/types';
export { type Completion, type FinishReason, Generation, type Timings, type Token, type Usage } from './generation';
export { type Attention, type HeadPlan, type HeadPlanLayer, type LayerHeads, readHeadPlan } from './head_plan';
export { type Device, devices, inspectModel, type ModelInfo } from './inspect';
export { loadModel, Model, type ModelMemory, type ModelStats } from './model';
export { calibrate, calibrationPage, evaluate } from './offline';
export type { GenerateOptions, LoadOptions, LoadProgress, Prompt } from './options';
export { type CacheBytes, Session } from './session';
export { type ChatMessage, type ChatTemplateOptions, type DecodeOptions, type EncodeOptions, Tokenizer } from './tokenizer';
export { version } from './version';
