"""Metrics that the training process sends.

Given: nothing. Hands on: tables of metrics, one for each topic. Never: holds a value.
"""

from functools import partial

from sidecar.metrics.metric import table

_gauges = partial(table, "gauge", "trainer")
_texts = partial(table, "text", "trainer")
_histograms = partial(table, "histogram", "trainer")

TRAINING = _gauges(
    ("train/loss", "nats", "Training loss; joined over ranks, weighted by train/loss_weight, else by tokens",
     "training_loss"),
    ("train/loss_weight", "", "What train/loss is a mean over where that is no tokens, such as pairs; this rank"),
    ("train/learning_rate", "", "Learning rate of optimizer group 0", "training_learning_rate"),
    ("train/learning_rate/{group}", "", "Learning rate of a further optimizer group"),
    ("train/lr_multiplier", "", "Factor on the learning rate; never the rate itself"),
    ("train/grad_norm", "", "Global L2 norm of the gradient before clipping, unscaled", "training_grad_norm"),
    ("train/grad_norm/{group}", "", "Gradient norm of one parameter group"),
    ("train/epoch", "epochs", "Epochs done, with fraction", "training_epoch"),
    ("train/num_tokens", "tokens", "Input tokens of this step, this rank"),
    ("train/num_tokens_seen", "tokens",
     "Tokens consumed so far by the script's own count, all ranks (TRL's num_tokens)"),
    ("train/num_loss_tokens", "tokens", "Tokens of this step that count in the loss, this rank"),
    ("train/num_samples", "samples", "Samples of this step, this rank"),
    ("train/flops", "flops", "Model FLOPs of this step, this rank, where they vary from step to step"),
    ("train/mfu_reported", "percent", "What a script itself claims its MFU to be"),
    ("train/param_norm", "", "Global L2 norm of the parameters"),
    ("train/param_norm/{group}", "", "L2 norm of one parameter group"),
    ("train/loss_scale", "", "Scale of a gradient scaler"),
    ("train/skipped_steps", "steps", "Steps an optimizer skipped because of non-finite gradients"),
    ("batch/loss", "nats", "Loss of one micro-batch before averaging"),
    ("batch/perplexity", "", "exp(batch/loss)"),
    ("batch/size", "samples", "Samples in the batch, a short last batch included"),
    ("batch/grad_norm", "", "train/grad_norm of the same step"),
)

VALIDATION = _gauges(
    ("val/loss", "nats", "Mean loss of an evaluation"),
    ("val/perplexity", "", "exp of the mean loss"),
    ("val/accuracy", "ratio", "Top-1 token accuracy, ignored tokens left out"),
    ("val/bits_per_byte", "bits", "Bits of loss for each byte of the validation text"),
    ("val/{name}", "", "Anything else an evaluation measured"),
    ("eval/{task}_acc", "ratio", "Accuracy on one benchmark task"),
    ("eval/{task}_acc_normalized", "ratio", "(accuracy - chance) / (1 - chance)"),
    ("eval/{task}_pass_at_{k}", "ratio", "Problems that at least one of k answers solves"),
    ("eval/mean_acc", "ratio", "Mean accuracy over the tasks present"),
    ("eval/mean_acc_normalized", "ratio", "Mean normalised accuracy over the tasks present"),
)

PREFERENCES = _gauges(
    ("rewards/chosen", "", "Mean implicit reward of the chosen replies (DPO: beta x log ratio to the reference)"),
    ("rewards/rejected", "", "Mean implicit reward of the rejected replies"),
    ("rewards/margin", "", "rewards/chosen minus rewards/rejected"),
    ("rewards/accuracy", "ratio", "Pairs in which the chosen reply has the higher reward"),
    ("val/rewards_margin", "", "rewards/margin of an evaluation"),
    ("val/rewards_accuracy", "ratio", "rewards/accuracy of an evaluation"),
    ("dpo/kl", "nats", "Divergence from the reference model, per token"),
    ("ppo/reward", "", "Mean reward of the replies"),
    ("ppo/response_length", "tokens", "Mean length of the replies"),
    ("ppo/kl", "nats", "Divergence of the policy from the reference model"),
    ("ppo/kl_weight", "", "Weight of ppo/kl in the reward"),
    ("ppo/policy_loss", "", "Clipped surrogate loss of the policy"),
    ("ppo/value_loss", "", "Loss of the value head"),
    ("ppo/entropy", "nats", "Entropy of the policy"),
    ("ppo/clip_fraction", "ratio", "Share of tokens whose ratio was clipped"),
    ("samples/length", "characters", "Mean length of the generated samples"),
    ("samples/distinct_2", "ratio", "Share of the pairs of neighbouring words that are different"),
    ("samples/repetition", "ratio", "Share of the samples' characters that only repeat"),
    ("samples/entropy", "bits", "Entropy of a character of the generated samples"),
    ("samples/perplexity", "", "Perplexity of the generated samples under a reference model"),
    ("samples/{name}", "", "Any other score of generated samples"),
)

ALLOCATOR = _gauges(
    ("system/gpu_{gpu}_memory_allocated_gb", "GB", "Memory in tensors, from torch's allocator"),
    ("system/gpu_{gpu}_memory_reserved_gb", "GB", "Memory held by torch's allocator"),
    ("system/gpu_{gpu}_memory_peak_gb", "GB", "Highest allocated since the process began or the script reset it"),
    ("system/gpu_{gpu}_alloc_retries", "", "Allocations that needed a second attempt"),
    ("system/gpu_{gpu}_ooms", "", "Allocations that failed"),
)

INTERNALS = (
    *_gauges(
        ("gradients/global_norm", "", "train/grad_norm of the same step"),
        ("gradients/mean_norm", "", "Mean of the parameters' gradient norms"),
        ("gradients/max_norm", "", "Largest of the parameters' gradient norms"),
        ("gradients/min_norm", "", "Smallest of the parameters' gradient norms"),
        ("gradients/{layer}", "", "Gradient norm of one layer, sampled"),
        ("weights/global_mean", "", "Mean of all weights"),
        ("weights/global_std", "", "Standard deviation of all weights"),
        ("weights/{layer}/mean", "", "Mean of one layer's weights, sampled"),
        ("weights/{layer}/std", "", "Standard deviation of one layer's weights"),
        ("weights/{layer}/norm", "", "L2 norm of one layer's weights"),
        ("updates/ratio", "ratio", "Length of a step's change over the length of the weights, sampled layers together"),
        ("updates/{layer}", "ratio", "Length of a step's change of one layer over the length of its weights"),
        ("activations/{layer}/mean", "", "Mean of one module's output, sampled"),
        ("activations/{layer}/std", "", "Standard deviation of one module's output"),
        ("activations/{layer}/max", "", "Largest magnitude in one module's output"),
        ("activations/{layer}/zero_ratio", "ratio", "Share of zeros in one module's output"),
        ("shard/{name}", "", "What a watched model's sharded parameters say of this rank's shard alone"),
    ),
    *_texts(
        ("gradients/max_norm_name", "", "The parameter whose gradient is largest, or the first that is NaN"),
    ),
    *_histograms(
        ("gradients/{layer}/histogram", "", "The gradient of one layer, in 64 bins"),
        ("weights/{layer}/histogram", "", "The weights of one layer, in 64 bins"),
        ("activations/{layer}/histogram", "", "The output of one module, in 64 bins"),
    ),
)

DATA = _gauges(
    ("data/total_samples", "samples", "Samples prepared"),
    ("data/avg_quality_score", "", "Mean quality score"),
    ("data/avg_code_length", "characters", "Mean length of code samples"),
    ("data/language_{language}", "samples", "Samples in one language"),
    ("data/language_{language}_percent", "percent", "Share of the samples in one language"),
    ("data/blocked_malicious", "samples", "Blocked as malicious"),
    ("data/blocked_secrets", "samples", "Blocked for secrets in them"),
    ("data/blocked_license", "samples", "Blocked for their licence"),
    ("data/blocked_total", "samples", "Blocked for any reason"),
    ("data/pass_rate", "percent", "100 x passed / (passed + blocked)"),
    ("data/unreadable", "samples", "Left out because they could not be read"),
    ("dataset/train_size", "samples", "Training samples"),
    ("dataset/eval_size", "samples", "Evaluation samples"),
    ("dataset/total_size", "samples", "Training and evaluation samples"),
    ("dataset/train_eval_ratio", "", "Training over evaluation samples"),
    ("dataset/avg_tokens_per_sample", "tokens", "Mean tokens of a sample"),
    ("dataset/max_tokens", "tokens", "Longest sample"),
    ("dataset/min_tokens", "tokens", "Shortest sample"),
    ("dataset/train_shards", "files", "Shards that the training text is read from"),
    ("dataset/truncated_samples", "samples", "Cut to the longest length allowed"),
    ("dataset/dropped_samples", "samples", "Left out for their length"),
    ("dataset/{dataset}/samples", "samples", "Consumed in this step, this rank"),
    ("dataset/{dataset}/tokens", "tokens", "Consumed in this step, this rank"),
    ("dataset/{dataset}/loss", "nats", "Mean training loss of what this step consumed of it; joined over ranks, "
     "weighted by what counts"),
    ("dataset/{dataset}/loss_weight", "", "What counted in that loss: tokens, or samples; this rank"),
    ("dataset/loss_weight", "", "What counted in the losses of all datasets together; this rank"),
)

CONFIGURATION = (
    *_gauges(
        ("continuous/run_number", "", "Number of this run"),
        ("continuous/total_runs", "runs", "Runs completed"),
        ("continuous/last_trained_id", "", "Last database id trained on"),
        ("continuous/total_samples_trained", "samples", "Samples over all runs"),
        ("continuous/uptime_hours", "hours", "Since the continuous trainer started"),
        ("model/total_params", "parameters", "Parameters"),
        ("model/trainable_params", "parameters", "Parameters that are trained"),
        ("model/trainable_percent", "percent", "Share of the parameters that is trained"),
        ("model/lora_r", "", "Rank of LoRA adapters"),
        ("model/lora_alpha", "", "Alpha of LoRA adapters"),
        ("hyperparams/batch_size", "samples", "Batch size"),
        ("hyperparams/learning_rate", "", "Peak learning rate"),
        ("hyperparams/max_length", "tokens", "Longest sequence"),
        ("checkpoint/seconds", "seconds", "Time a checkpoint took"),
        ("checkpoint/bytes", "bytes", "Size of a checkpoint"),
        ("custom/{name}", "", "Whatever a script likes to log"),
        ("code/{name}", "", "Number about code samples"),
    ),
    *_texts(
        ("dataset/current", "", "The dataset that a script reports it is reading"),
        ("model/name", "", "Name of the model"),
        ("checkpoint/name", "", "Name of a checkpoint"),
        ("sample/{prompt}", "", "Text generated for a prompt; stays on this machine unless allowed to leave"),
    ),
)
