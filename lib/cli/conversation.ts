// A conversation as tokens of one session. In: user turns and answers. Out: just the ids that the session's cache lacks.
import { ChaiError } from '../errors';
import type { Model } from '../model';
import type { Session } from '../session';
import type { ChatMessage } from '../tokenizer';

/** What the next answer needs. */
export interface NextTurn {
  /** Ids to send: the conversation without what the session holds already. */
  ids: number[];
  /** Tokens of the conversation that stayed in the cache. */
  reusedTokens: number;
  /** Messages left out, oldest first, because the context is full. */
  forgotten: number;
}

export class Conversation {
  private readonly system: ChatMessage[];
  private turns: ChatMessage[] = [];

  /** `answerRoom`: tokens of the context kept free for the next answer. */
  constructor(
    private readonly model: Model,
    private readonly session: Session,
    private readonly answerRoom: number,
    system?: string,
  ) {
    this.system = system ? [{ role: 'system', content: system }] : [];
  }

  /** Adds a user's turn, and cuts the session back to where the conversation differs from what it holds. */
  ask(content: string): NextTurn {
    this.turns.push({ role: 'user', content });
    let forgotten = 0;
    let wanted = this.encode();
    while (wanted.length + this.answerRoom > this.model.config.contextLength && this.turns.length > 2) {
      this.turns.splice(0, 2);
      forgotten += 2;
      wanted = this.encode();
    }
    const reusedTokens = this.keep(wanted);
    return { ids: wanted.slice(reusedTokens), reusedTokens, forgotten };
  }

  answered(content: string): void {
    this.turns.push({ role: 'assistant', content });
  }

  /** Takes back a user's turn that got no answer. */
  withdraw(): void {
    this.turns.pop();
  }

  private encode(): number[] {
    const { tokenizer } = this.model;
    const messages = [...this.system, ...this.turns];
    if (tokenizer.hasChatTemplate) return tokenizer.encode(tokenizer.applyChatTemplate(messages), { addSpecialTokens: false });
    // Without a template: one text that the model continues; an answer goes on right where the user's line ends.
    return tokenizer.encode(messages.map(({ role, content }, i) => (role === 'assistant' || i === 0 ? '' : '\n') + content).join(''));
  }

  /** Cuts the session to the longest common start; one token at least remains to be sent. Gives the tokens kept. */
  private keep(wanted: number[]): number {
    const present = this.session.tokens;
    let common = 0;
    while (common < Math.min(present.length, wanted.length - 1) && present[common] === wanted[common]) ++common;
    if (common === present.length) return common;
    try {
      this.session.truncate(common);
      return common;
    } catch (error) {
      // A cut inside the warm-up tokens: membership has to be found anew.
      if (!(error instanceof ChaiError && error.code === 'OPTION_INVALID')) throw error;
      this.session.truncate(0);
      return 0;
    }
  }
}
