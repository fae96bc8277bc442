"""MGDFR: distils only from the teacher's features that matter to the student's modality too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mst_distill.compare.context import CROSSMODAL, MethodResult, TrialContext
from mst_distill.compare.methods.dml import DML
from mst_distill.compare.methods.kd import KD
from mst_distill.mst.features import FeatureExtractor, ModelOutput
from mst_distill.mst.networks import freeze
from mst_distill.parameters import MULTIMODAL
from mst_distill.training.batches import Inputs
from mst_distill.training.seeding import Stream
from mst_distill.training.selection import SELECTION

PERMUTATIONS = 10
"""How often each channel is shuffled over a batch to measure its salience. The authors' code has 10
for RAVDESS and 100 for VGGSound."""

SUPPRESSED_SHARE = 0.75
"""The share of channels that are replaced by their means: the least modality-general ones. The
authors' code has 0.75 for RAVDESS, and suppresses half of the channels for VGGSound."""


class MGDFR(KD):
    """KD from a teacher whose less modality-general channels are replaced by their means.

    Xue, Gao, Ren, Zhao, "The Modality Focusing Hypothesis", ICLR 2023, algorithm 1. A teacher and a
    student train together for the epochs of stage 1. The salience of a channel of the teacher's
    embedding is the distance of the teacher's logits to that student's after the channel is
    shuffled over a batch. Then a new student is trained with KD for the trial's epochs. The
    distance is the squared one, which is the loss of the pair. The code of the algorithm's authors
    for RAVDESS also takes the squared one and replaces channels by their means; their code for
    VGGSound takes the absolute one and sets channels to 0. They train the new student by KD alone,
    without labels, and with SGD. In the released code of the paper behind
    this project no channel is in fact replaced.
    """

    teachers = (MULTIMODAL, CROSSMODAL)

    @classmethod
    def teach(cls, context: TrialContext, **arguments: Any) -> MethodResult:
        """Train the pair, rank the channels, and distil into a new student."""
        context.teacher_inputs = "inputs"
        pair = Pair(context)
        teacher = pair.peer
        last = {"last": SELECTION["last"]}
        prepared = context.fit(pair, context.plan.teachers.epochs, selections=last, phase="/pair")
        freeze([pair.student.net, teacher.net])
        batches, _ = context.pool.batches(
            context.teacher_name, "inputs", f"{Stream.COMPARE}/salience"
        )
        seen = (batch.having(context.teacher_modalities)[0] for batch in batches)
        inputs = (batch.inputs for batch in seen if len(batch.label))
        means = suppressed_channels(pair.student, teacher, inputs)
        context.new_student()
        context.use_teacher(
            lambda inputs: (teacher.finish(inputs, suppress(teacher(inputs), means)),)
        )
        trained = context.fit(cls(context, **arguments), context.epochs)
        return trained.with_earlier_phase(prepared)


class Pair(DML):
    """L = CE(S) + CE(T) + MSE(S, T), with gradient to both sides."""

    def mutual(self, student: Tensor, peer: Tensor) -> dict[str, Tensor]:
        """Compute ``apart``, the mean squared difference of the logits.

        Args:
            student: Logits.
            peer: Logits.
        """
        return {"apart": F.mse_loss(student, peer)}


@torch.no_grad()
def suppressed_channels(
    student: FeatureExtractor, teacher: FeatureExtractor, batches: Iterable[Inputs]
) -> dict[int, float]:
    """Find the channels of the teacher's embedding that are replaced by their means.

    Returns:
        Channel to its mean over the batches, for the `SUPPRESSED_SHARE` of smallest salience.
    """
    saliences, means, count = [], [], 0
    for inputs in batches:
        embedding = teacher(inputs).embedding
        size = len(embedding)
        count += size
        means.append(size * embedding.transpose(0, 1).flatten(1).mean(dim=1))
        saliences.append(size * salience(student(inputs).logits, teacher, inputs, embedding))
    ranked = torch.stack(saliences).sum(dim=0).argsort(stable=True).tolist()
    mean = (torch.stack(means).sum(dim=0) / count).tolist()
    return {channel: mean[channel] for channel in ranked[: int(SUPPRESSED_SHARE * len(ranked))]}


def suppress(output: ModelOutput, means: dict[int, float]) -> Tensor:
    """Return the embedding with the channels of `means` replaced by these values."""
    embedding = output.embedding.clone()
    for channel, mean in means.items():
        embedding[:, channel] = mean
    return embedding


def salience(
    logits: Tensor, teacher: FeatureExtractor, inputs: Inputs, embedding: Tensor
) -> Tensor:
    """Compute the mean squared distance to the student after shuffling a channel, ``(channels,)``.

    Args:
        logits: Of the student.
        teacher: Frozen, in eval mode.
        inputs: Of the batch.
        embedding: Of the teacher, ``(B, D)`` or ``(B, D, H, W)``.
    """
    distances = logits.new_zeros(embedding.shape[1])
    for _ in range(PERMUTATIONS):
        order = torch.randperm(len(embedding)).to(embedding.device)
        for channel in range(embedding.shape[1]):
            shuffled = embedding.clone()
            shuffled[:, channel] = embedding[order, channel]
            distances[channel] += F.mse_loss(teacher.finish(inputs, shuffled), logits)
    return distances / PERMUTATIONS
