"""Meta-trains on patients' descriptions of twelve diagnoses, then adapts to ten others with a few labels.

    python recipes/medical.py

The data are gretelai/symptom_to_diagnosis, read from the Hub: 1,065 descriptions of symptoms (column input_text) with
22 diagnoses (column output_text). Each diagnosis has about 40 training and 10 test descriptions. A folder with
train.jsonl and test.jsonl also works:

    python recipes/medical.py --source hub:FOLDER --target hub:FOLDER --evaluate.test hub:FOLDER::test

The tests read a small sample in the same format. The recipe has not been run on the data itself.
"""

from metatext.cli.runner import run_recipe
from metatext.recipe import Recipe
from metatext.settings import EpisodeSettings, EvaluateSettings, LearnerSettings, Table, TrainConfig

DATA = "hub:gretelai/symptom_to_diagnosis"

MEDICAL = Recipe(
    source=(DATA,),
    target=(DATA,),
    target_classes=(
        "allergy", "bronchial asthma", "cervical spondylosis", "chicken pox", "diabetes", "drug reaction",
        "hypertension", "malaria", "psoriasis", "varicose veins",
    ),
    encoder="sentence-transformers/all-MiniLM-L6-v2",
    data_dir="data",
    orders=("first-order",),
    table=Table(text="input_text", label="output_text"),
    episodes=EpisodeSettings(ways=6, shots=5, queries=5),
    learner=LearnerSettings(inner_steps=0, max_length=64),
    config=TrainConfig(
        output="runs/medical", meta_steps=60, meta_batch_size=4, outer_lr=3e-5, eval_every=20, mixed_precision="bf16"
    ),
    evaluate=EvaluateSettings(
        test=f"{DATA}::test", shots=(1, 2, 5, 10, 20), precision="bf16",
        methods=(
            "majority", "names", "tfidf", "centroid", "frozen", "frozen+names", "finetune", "no-meta-training",
            "maml",
        ),
    ),
)  # fmt: skip

if __name__ == "__main__":
    run_recipe(MEDICAL, __doc__)
