# JupyterLab with the course, for one person or as a hub's image (workshop/hub/zero-to-jupyterhub.yaml):
#     docker build --tag sizing-workbook .
#     docker run --rm --publish 127.0.0.1:8888:8888 --volume sizing:/home/jovyan sizing-workbook
# What was tested of it, and what was not: docs/REPORTS.md.
FROM python:3.12-slim-bookworm

# The CPU build of torch. A CUDA build: --build-arg TORCH_FROM=
ARG TORCH_FROM="--index-url https://download.pytorch.org/whl/cpu"

RUN apt-get update && apt-get install --yes --no-install-recommends git && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/course
COPY . .
RUN python -m pip install --no-cache-dir $TORCH_FROM "$(grep '^torch==' requirements.txt)"
RUN python -m pip install --no-cache-dir -r requirements.txt -r workshop/hub/requirements-hub.txt
RUN settings="$(python -c 'import sys; print(sys.prefix)')/share/jupyter/lab/settings" \
    && mkdir -p "$settings" && cp jupyter/overrides.json "$settings"

# The name, the number and the home that JupyterHub on Kubernetes expects.
RUN useradd --create-home --uid 1000 --shell /bin/bash jovyan
USER jovyan
WORKDIR /home/jovyan
ENV JUPYTER_PATH=/opt/course/jupyter SIZING_LEARNER_DIR=/home/jovyan/.sizing

# It listens to all of the container; --publish says who outside of it may connect.
EXPOSE 8888
CMD ["sh", "-c", "python -m sizing.course.copies /home/jovyan/work && exec jupyter lab --ip=0.0.0.0 --port=8888 --no-browser"]
