/** Types of the page. They are beside it because only the check reads them: no browser has to load them. */

type Answer = import("../../page/core/model.js").Answer;
type Canvas = import("../../page/core/model.js").Canvas;
type Recording = import("../../page/core/model.js").Recording;
type Run = import("../../page/core/run.js").Run;
type Server = import("../../page/core/api.js").Server;

type Json = Record<string, any>;

/** Attributes of an element, and its listeners. */
type Attributes = Record<string, unknown> & {
  click?: (event: MouseEvent) => void;
  dragover?: (event: DragEvent) => void;
  drop?: (event: DragEvent) => void;
  keydown?: (event: KeyboardEvent) => void;
  pointerover?: (event: PointerEvent) => void;
  submit?: (event: SubmitEvent) => void;
};

/** What an element may have inside. */
type Child = Node | string | null | undefined | false;

/** A canvas after a denoising step. */
interface Draft {
  /** From 0. */
  step: number;
  temperature: number;
  /** In nats. */
  meanEntropy: number;
  stable: boolean;
  /** "running", "converged" or "out-of-steps". */
  progress: string;
  /** The input of the next step: accepted tokens, and noise elsewhere. */
  canvas: Int32Array;
  /** The most likely tokens. */
  argmax: Int32Array;
  /** The tokens drawn. */
  sampled: Int32Array;
  /** 1 where the drawn token was accepted. */
  accepted: Uint8Array;
  /** In nats. */
  entropy: Float32Array;
  /** Of the tokens drawn. */
  probability: Float32Array | null;
}

/** A canvas that has been committed. */
interface Finished {
  steps: number;
  converged: boolean;
  /** The whole canvas. */
  tokens: Int32Array;
  /** What a reader sees of it. */
  answer: Int32Array;
  generated: number;
  ended: boolean;
}

/** A picture of an answer. */
interface Frame {
  canvas: Canvas;
  /** Index of the canvas. */
  block: number;
  /** Index of the draft; -1 before the first step. */
  draft: number;
  /** Whether the canvas is finished. */
  done: boolean;
}

/** What a canvas shows; all lists have an entry for each position. */
interface Picture {
  texts: string[];
  states: Uint8Array;
  /** 1 inside a thought. */
  thought?: Uint8Array;
  /** 1 where the form settled it. */
  form?: Uint8Array;
  /** 1 where it differs from another canvas. */
  marked?: Uint8Array;
  /** A shade from 0 to 9 instead of the state's colour. */
  shades?: (string | number)[];
}

/** Marks positions of a canvas. */
type Marks = (block: number, tokens: Int32Array) => Uint8Array | undefined;

/** A parameter of the sampler. */
interface Parameter {
  /** As the request spells it. */
  name: string;
  label: string;
  hint: string;
  min: number;
  max: number;
  step: number;
  /** Whether its slider has a logarithmic scale. */
  log?: boolean;
  /** The reference's default. */
  initial: number;
}

/** Values of parameters that differ from the server's. */
type Values = Record<string, number>;

/** What the address bar keeps, so that a run can be shared and repeated. */
interface Place {
  view: string;
  prompt: string;
  seed: string;
  values: Values;
}

/** A figure of the server. */
interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

/** A call of a tool, as an answer asks for it. */
interface Call {
  id: string;
  type: "function";
  function: { name: string; arguments: string };
}

/** A message of a chat. */
interface Message {
  role: "user" | "assistant" | "tool";
  content: string;
  /** Of an assistant that calls tools. */
  tool_calls?: Call[];
  /** Of a tool. */
  tool_call_id?: string;
}

/** What asks for an answer. */
interface Job {
  path: string;
  body: Json;
  seed: number;
  /** Parameters of the sampler. */
  values: Values;
}

interface TaskOptions {
  /** Asks for the answer again. */
  again: (seed: number) => void;
  onEnd?: (run: Run) => void;
  /** Whether another player shows its pictures. */
  noReplay?: boolean;
  /** Whether the lab shows it already. */
  isLab?: boolean;
  /** Text around the answer. */
  given?: { before?: string; after?: string };
  /** Keys of the schema that it follows. */
  keys?: string[];
}

/** What the views share: the server, what it can do, and where the page is. */
interface App {
  server: Server;
  /** What the address bar has. */
  place: Place;
  /** Changes it. */
  setPlace: (change: Partial<Place>) => void;
  /** Opens an answer in the lab. */
  inspect: (recording: Recording, answer: Answer) => void;
  /** Whether the page is a file with a recording, without a server. */
  isFile: boolean;
}

/** A view of the page. */
interface View {
  element: HTMLElement;
  /** Takes the server's `diffusion` properties. */
  setProps?: (props: Record<string, unknown>) => void;
  /** Called when it is shown. */
  enter?: () => void;
  /** Called when another is shown. */
  leave?: () => void;
}
