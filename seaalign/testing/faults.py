"""Every fault that `check_backbone` can name, with its likely cause and the next step: what a user then reads."""

from __future__ import annotations

_SHIFT = "column t is log p(token t | prompt, tokens before t); column lengths[b] is the end token"
_MASK = "compare your mask with speech.scored (B, T+1), which is True on exactly the columns to score"
_SCORE = "return log_softmax(logits) gathered at the tokens: one column per token and one for the end token"
_STREAM = "give every row its own stream: seaalign.backbones.base.row_keys, seaalign.functional.sampling.uniforms"
_HEAT = "divide the logits by each row's temperature, and take the argmax where it is 0"

# name: (likely cause, next step)
FAULTS = {
    "no backbone": (
        "the model itself was given, or the class of the adapter",
        "subclass DecoderOnly, StepBackbone or LogitsBackbone, hold the model in it, and give an object of that",
    ),
    "no end token": (
        "`eos` was not named, or is counted from another id than the head's outputs",
        "name `eos`: the index of the end token among the outputs of logits()",
    ),
    "forward meets an unknown id": (
        "an id of text or speech is not below the number of rows of the embedding that looks it up",
        "compare the largest ids with num_embeddings of both tables: another tokenizer, or a missing offset?",
    ),
    "forward raises": (
        "the error itself says: it is none of shapes, so nothing is guessed here",
        "read the traceback above this error: its last line in your adapter is the place",
    ),
    "forward fails": (
        "a hook got tensors of another shape than it expects, or prompts are taken by row, not by speech.prompt",
        "read the error above this one; row b answers prompts[speech.prompt[b]], and several rows may share one",
    ),
    "stepwise fails": (
        "prefill(), extend() or select() raises where forward does not: scoring needs no cache, sampling does",
        "read the error above this one, and call the hook on one prompt by itself",
    ),
    "sample fails": (
        "a number where one per row (P*n,) was given, or the state does not follow the rows",
        "read the error above this one; temperature, max_len and min_len are a number or a tensor (P*n,)",
    ),
    "wrong shape": ("the end token has no column, or sums were returned", _SCORE),
    "scores are not fp32": ("log-softmax in the parameters' dtype", "call logits.float() before log_softmax"),
    "scores are not finite": (
        "-inf logits of banned ids, or padding rows that attend to nothing",
        "ban ids in sample(), not in forward(); let every position attend to itself",
    ),
    "log-prob above 0": ("logits were returned, or a loss instead of its negative", _SCORE),
    "random layout or dropout inside forward": (
        "active dropout, or a layout that is drawn anew per call",
        "set dropout to 0 (or override train() so that it stays in eval mode) and fix the layout: policy and reference "
        "must score the same sequence",
    ),
    "forward changes the model": ("batch norm in train mode", "keep that layer in eval mode, e.g. override train()"),
    "train and eval mode score differently": (
        "batch norm, or a branch on self.training",
        "make forward the same function in both modes",
    ),
    "inverted mask": ("mask and its complement exchanged", _MASK),
    "nothing is scored": ("a mask that is False everywhere", _MASK),
    "padding is scored": ("the mask does not cover the padding", _MASK),
    "mask off by one, too long": ("lengths + ended + 1 columns are scored, or scores are shifted right", _MASK),
    "mask off by one, too short": ("the end token was forgotten, or scores are shifted left", _MASK),
    "end token scored where sampling was cut": (
        "speech.ended is ignored: the model is rewarded for stopping where max_len cut it",
        _MASK,
    ),
    "padding-dependent scores": (
        "attention, pooling or positions that include padding",
        "mask padding out of attention and means, and count positions from the row's own start",
    ),
    "scores depend on the batch": (
        "positions or masks of shorter prompts, batch norm, or prompts taken by row instead of by speech.prompt",
        "score two prompts of different length in one batch; row b answers prompts[speech.prompt[b]]",
    ),
    "mask off by one, features late": (
        "features are read one position late: a token's score has seen the token, the end token's sees padding",
        _SHIFT,
    ),
    "mask off by one, features early": ("features are read one position early: the last token is unknown", _SHIFT),
    "mask off by one, shifted left": ("scores or targets moved one column to the left", _SHIFT),
    "mask off by one, shifted right": (
        "scores or targets moved one column to the right, or another token than the target is scored",
        _SHIFT,
    ),
    "score sees the future": ("attention, pooling or positions are not causal", _SHIFT),
    "scores ignore the tokens": (
        "a constant is scored, or the head is still zero (then train it a step, or fill it with noise)",
        _SHIFT,
    ),
    "a codebook is not scored": (
        "frame_score adds up some codebooks only",
        "log pi of a frame is the sum over all K codebooks",
    ),
    "one-token answers do not sum to 1": (
        "mask off by one (features read one position late, so a token's score has seen the token), "
        "or a log-softmax over part of the ids",
        "column 0 must come from the last prompt position, through one log-softmax over all ids",
    ),
    "stepwise is not teacher forced, first token": (
        "prefill() reads another position than forward, e.g. with short prompts in a ragged batch",
        "return the feature of each prompt's last real position",
    ),
    "stepwise is not teacher forced, later tokens": (
        "extend() has wrong positions, attends to the holes of short prompts, or loses its cache",
        "compare extend() on one row with forward, then on two prompts of different length",
    ),
    "stepwise is not teacher forced, after select": (
        "select() leaves part of the state in the old row order",
        "index every tensor of the state along its row dimension",
    ),
    "shared prompt differs from separate prompts": (
        "rows are mapped to prompts in order instead of by speech.prompt, or a shared prefix is detached",
        "row b answers prompts[speech.prompt[b]]; expand one encoding with index_select, which keeps the gradient",
    ),
    "no gradient": ("scoring under no_grad, or detached features", "look for no_grad, detach() and .data in the hooks"),
    "gradient is not finite": ("a masked -inf times zero", "choose with torch.where, do not multiply by the mask"),
    "gradient flows through padding": (
        "padding enters the sum, or is masked by something else than the mask",
        "zero the ids of the padding before embedding them, and choose scores with torch.where",
    ),
    "style is ignored": (
        "prompt.style is not read",
        "put the style tokens into the prompt, or leave 'style' out of features",
    ),
    "policy and reference differ": (
        "forward computes something else with a gradient than without",
        "score policy and reference with the same code",
    ),
    "sample returns other rows": (
        "answers ordered by draw instead of by prompt",
        "return the n rows of prompt 0 first, then those of prompt 1: repeat_interleave(n)",
    ),
    "length limits are not kept": (
        "limits per row are not read, or the end token is not banned before min_len",
        "accept a number or a tensor (P*n,) for max_len and min_len",
    ),
    "ended is wrong": ("rows cut at max_len reported as ended, or the reverse", "return ended = lengths < max_len"),
    "end token stored": ("lengths count the end token", "a row's tokens stop before the end token"),
    "sampling does not repeat": ("draws from a global generator", "draw from the generator argument alone"),
    "sampling ignores the generator": (
        "a seed of its own: two calls give the same rows",
        "draw one number from the generator per call and derive the rest from it",
    ),
    "sampling changes the training mode": (
        "eval() without putting back every module's own mode",
        "use seaalign.backbones.base.evaluating",
    ),
    "sampling moves the global generator": (
        "torch.multinomial or torch.rand without generator=",
        "draw from the generator argument alone",
    ),
    "sampling depends on batch composition": (
        "one generator serves rows in batch order (torch.multinomial over the batch), or a row's state shifts when "
        "another row leaves",
        _STREAM,
    ),
    "temperature is ignored": ("temperature is not passed on, or 0 is not taken as greedy", _HEAT),
    "sampled frequencies do not follow the model": (
        "temperature or top_p is ignored, or sample() draws from other logits than forward() scores",
        "draw from softmax(logits / temperature), cut to the smallest set with mass >= top_p",
    ),
}


class BackboneError(AssertionError):
    """A backbone breaks a rule of the contract; the message names the fault, with numbers, cause and next step."""


def fault(name: str, numbers: str, cause: str = "") -> BackboneError:
    """The error for a fault of the table; `cause` replaces the likely one where more is known."""
    likely, step = FAULTS[name]
    return BackboneError(f"{name}: {numbers}.\n  likely cause: {cause or likely}\n  next step: {step}")
