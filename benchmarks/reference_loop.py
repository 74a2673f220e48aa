"""A straight transcription of the published training loop, to be measured against.

In: a `World`.  Out: a function that runs one update of it. What METHOD sections 1 to 3 say of the reference, as it is:
an episode at a time with its four queries, a Haar matrix of `scipy.stats.ortho_group` for each, captions padded to the
longest of the four, the whole prompt computed in every row, logits of every position, no attention mask, gradients
accumulated over the episodes of an update, AdamW. Two things are in its favour here: embeddings lie in memory, and the
forward pass does not stop after the projector's first layer (ours would be compared with half a projector else).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import ortho_group
from torch import nn

from benchmarks.meta_world import OPTIM, World
from pipeline.episodes.batch import SupportBatch


def reference_update(world: World) -> Callable[[], None]:
    """One update of `world.shape.episodes` micro-steps."""
    shape, llm, rows = world.shape, world.llm, world.rows
    semi = world.semi()
    every = np.arange(len(rows), dtype=np.int64)
    embeddings, texts = rows.embeddings(every), rows.text_embeddings(every)
    captions = [options[0] for options in rows.captions(every)]
    optimizer = torch.optim.AdamW(semi.hypernet.parameters(), lr=OPTIM.learning_rate, betas=OPTIM.betas)
    random = np.random.RandomState(0)
    embed = llm.model.get_input_embeddings()

    def micro_step() -> None:
        chosen = random.choice(len(captions), shape.shots + shape.queries, replace=False)
        rotation = torch.from_numpy(ortho_group.rvs(shape.width, random_state=random).astype(np.float32))
        rotated = (embeddings[chosen] @ rotation).to(world.device)
        support = SupportBatch(
            embeddings_NKE=rotated[: shape.shots].unsqueeze(0),
            texts_NKW=texts[chosen[: shape.shots]].unsqueeze(0).to(world.device),
            instructions_NW=rows.instruction_W.unsqueeze(0).to(world.device),
        )
        soft = semi.projector(rotated[shape.shots :].unsqueeze(0), semi.hypernet(support, semi.projector))[0]
        ids = llm.caption_ids([captions[row] for row in chosen[shape.shots :]])
        longest = max(len(row) for row in ids)
        # Padding is the end-of-sequence token, and it is trained on.
        labels = torch.tensor([row + [llm.tokenizer.eos_token_id] * (longest - len(row)) for row in ids])
        labels = labels.to(world.device)
        sides = [embed(side).expand(shape.queries, -1, -1) for side in (llm._prefix_P, llm._suffix_U)]
        inputs = torch.cat([sides[0], soft.to(sides[0].dtype), sides[1], embed(labels)], dim=1)
        ignored = labels.new_full((shape.queries, inputs.shape[1] - longest), -100)
        loss = llm.model(inputs_embeds=inputs, labels=torch.cat([ignored, labels], dim=1)).loss
        (loss / shape.episodes).backward()

    def update() -> None:
        for _ in range(shape.episodes):
            micro_step()
        nn.utils.clip_grad_norm_(semi.hypernet.parameters(), OPTIM.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    return update
