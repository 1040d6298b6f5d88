"""Meta-trains on intents of other domains and on half of a bank's intents, then adapts to the bank's other half.

    python recipes/banking_intents.py --data-dir DATA --encoder sentence-transformers/all-MiniLM-L6-v2

DATA is a folder of JSON lines files with the fields text and label:
    en/clinc150.train          questions to an assistant, 150 intents in 10 domains
                               (Hub: clinc/clinc_oos, without its out-of-scope rows)
    en/banking77.train, .test  customers' questions to a bank, 77 intents (Hub: PolyAI/banking77)

The target has every second intent in alphabetical order. To take all 77 intents as the target, add
`--source en/clinc150 --target-classes` (with nothing after it).
"""

from metatext.cli.runner import run_recipe
from metatext.recipe import Recipe
from metatext.settings import EpisodeSettings, EvaluateSettings, LearnerSettings, Table, TrainConfig

TARGET_CLASSES = """
activate_my_card apple_pay_or_google_pay automatic_top_up balance_not_updated_after_cheque_or_cash_deposit
cancel_transfer card_acceptance card_delivery_estimate card_not_working card_payment_not_recognised card_swallowed
cash_withdrawal_not_recognised compromised_card country_support declined_cash_withdrawal
direct_debit_payment_not_recognised edit_personal_details exchange_rate extra_charge_on_statement
fiat_currency_support get_physical_card getting_virtual_card lost_or_stolen_phone passcode_forgotten
pending_cash_withdrawal pending_transfer receiving_money reverted_card_payment? terminate_account
top_up_by_card_charge top_up_failed top_up_reverted transaction_charged_twice transfer_into_account transfer_timing
verify_my_identity verify_top_up visa_or_mastercard wrong_amount_of_cash_received
"""

BANKING = Recipe(
    source=("en/clinc150", "en/banking77"),
    target=("en/banking77",),
    target_classes=tuple(TARGET_CLASSES.split()),
    encoder="sentence-transformers/all-MiniLM-L6-v2",
    data_dir="data",
    orders=("first-order",),
    table=Table(),
    # The sources resemble the target, so no class is held out for early stopping. The last weights are kept.
    episodes=EpisodeSettings(ways=20, shots=3, queries=3, valid_fraction=0),
    learner=LearnerSettings(inner_steps=0, max_length=48),
    config=TrainConfig(
        output="runs/banking_intents", meta_steps=150, meta_batch_size=4, outer_lr=1e-4, save_every=30,
        mixed_precision="bf16",
    ),
    evaluate=EvaluateSettings(
        shots=(1, 2, 5, 10, 20), precision="bf16", fine_tune_steps=200,
        methods=("names", "tfidf", "centroid", "frozen", "frozen+names", "finetune", "no-meta-training", "maml"),
    ),
)  # fmt: skip

if __name__ == "__main__":
    run_recipe(BANKING, __doc__)
